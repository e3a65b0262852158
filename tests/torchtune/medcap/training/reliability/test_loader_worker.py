import errno
import os
import subprocess
import sys

import pytest
import torch

from medcap.training.reliability.failures import explain
from medcap.training.reliability.loader_worker import OUT_OF_FILES

LOADER = """
import errno, os, sys, threading
import torch
from torch.utils.data import DataLoader
from medcap.training.reliability.failures import explain
from medcap.training.reliability.loader_worker import begin_worker


class Batch:
    def __init__(self, number):
        self.number = number

    def __reduce__(self):
        raise {error}


class Numbers(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, number):
        if {thread}:
            # As multiprocessing's server of descriptors does, without end.
            threading.Thread(target=lambda: [sys.excepthook(OSError, {error}, None) for _ in range(10**9)]).start()
            threading.Event().wait()
        return Batch(number)


if __name__ == "__main__":
    try:
        list(DataLoader(Numbers(), batch_size=None, num_workers=1, worker_init_fn=begin_worker))
    except Exception as error:
        print(explain(error))
"""


@pytest.mark.parametrize(
    ("error", "thread", "told", "printed"),
    [
        ("OSError(errno.EMFILE, 'Too many open files')", False, "too many files are open (", ""),
        ("OSError(errno.ENFILE, 'Too many open files')", False, "too many files are open (", ""),
        ("OSError(errno.EMFILE, 'Too many open files')", True, "too many files are open (", ""),
        ("RuntimeError('unable to open shared memory object </x>: Too many open files (24)')", False, "too many", ""),
        (
            "RuntimeError('unable to write to file </torch_1>: No space left')",
            False,
            "the data loader ran out of sh",
            "",
        ),
        ("ValueError('odd')", False, "a data-loader worker died (", "a data-loader worker cannot send its batch: odd"),
    ],
)
def test_a_worker_that_cannot_send_its_batch_ends_and_the_run_with_it(tmp_path, error, thread, told, printed):
    (tmp_path / "loader.py").write_text(LOADER.format(error=error, thread=thread))
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", str(tmp_path / "loader.py")], capture_output=True, text=True, timeout=90
    )
    assert ended.stdout.startswith(told)
    assert ended.stderr == (f"{printed}\n" if printed else "")


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
