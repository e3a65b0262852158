import errno
import os
import subprocess
import sys

import pytest
import torch

from helpers.waiting import PATIENCE
from medcap.training.reliability.failures import explain
from medcap.training.reliability.loader_worker import OUT_OF_FILES

# Each case in a process of its own, forked from one that has imported torch.
LOADER = """
import errno, os, sys, threading
import torch
from torch.utils.data import DataLoader
from medcap.training.reliability.failures import explain
from medcap.training.reliability.loader_worker import begin_worker


class Batch:
    def __init__(self, make_error):
        self.make_error = make_error

    def __reduce__(self):
        raise self.make_error()


class Numbers(torch.utils.data.Dataset):
    def __init__(self, make_error, thread):
        self.make_error, self.thread = make_error, thread

    def __len__(self):
        return 4

    def __getitem__(self, number):
        if self.thread:
            # As multiprocessing's server of descriptors does, without end.
            tell = lambda: [sys.excepthook(OSError, self.make_error(), None) for _ in range(10**9)]
            threading.Thread(target=tell).start()
            threading.Event().wait()
        return Batch(self.make_error)


for number, (make_error, thread) in enumerate([{cases}]):
    if os.fork():
        os.wait()
        continue
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{{number}}.{{name}}", os.O_WRONLY | os.O_CREAT), descriptor)
    try:
        list(DataLoader(Numbers(make_error, thread), batch_size=None, num_workers=1, worker_init_fn=begin_worker))
    except Exception as error:
        print(explain(error), flush=True)
    os._exit(0)
"""
# What the worker meets, whether in a thread of multiprocessing's, what the run says, and what the worker prints.
CASES = [
    ("OSError(errno.EMFILE, 'Too many open files')", False, "too many files are open (", ""),
    ("OSError(errno.ENFILE, 'Too many open files')", False, "too many files are open (", ""),
    ("OSError(errno.EMFILE, 'Too many open files')", True, "too many files are open (", ""),
    ("RuntimeError('unable to open shared memory object </x>: Too many open files (24)')", False, "too many", ""),
    ("RuntimeError('unable to write to file </torch_1>: No space left')", False, "the data loader ran out of sh", ""),
    ("ValueError('odd')", False, "a data-loader worker died (", "a data-loader worker cannot send its batch: odd\n"),
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A folder with what each case printed."""
    folder = tmp_path_factory.mktemp("loaders")
    cases = ", ".join(f"(lambda: {error}, {thread})" for error, thread, *_ in CASES)
    script = LOADER.format(cases=cases)
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True, timeout=PATIENCE, cwd=folder)
    return folder


@pytest.mark.processes
@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)))
def test_a_worker_that_cannot_send_its_batch_ends_and_the_run_with_it(ended, number):
    *_, told, printed = CASES[number]
    assert (ended / f"{number}.out").read_text().startswith(told)
    assert (ended / f"{number}.err").read_text() == printed


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EMFILE, os.strerror(errno.EMFILE)),
        OSError(errno.ENFILE, os.strerror(errno.ENFILE), "a.png"),
        RuntimeError("received 0 items of ancdata"),
        RuntimeError(f"DataLoader worker (pid 7) exited unexpectedly with exit code {OUT_OF_FILES}. Details are lost"),
    ],
)
def test_the_limit_of_open_files_is_one_line_with_its_remedies(error):
    line = explain(error)
    assert line.startswith("too many files are open (")
    assert "lower num_workers, or raise the limit of " in line


def test_the_worker_of_a_loader_that_was_told_by_another_error_is_found_by_its_cause():
    error = RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly")
    error.__cause__ = RuntimeError(f"DataLoader worker (pid 7) exited unexpectedly with exit code {OUT_OF_FILES}. X")
    assert explain(error).startswith("too many files are open (")
    error.__cause__.__cause__ = OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    assert explain(error).startswith("too many files are open (")
    error.__cause__ = RuntimeError("DataLoader worker (pid 7) exited unexpectedly with exit code 1. X")
    assert explain(error).startswith("a data-loader worker died (pid 7 exited unexpectedly)")


def test_out_of_gpu_memory_is_still_what_it_was():
    assert explain(torch.OutOfMemoryError("CUDA out of memory")).startswith("the GPU's memory is full")
