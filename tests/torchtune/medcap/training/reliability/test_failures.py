import json
import os
import signal
import traceback

import pytest
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset

from medcap.checkpoints.tensor_tree import load_tree, save_tree
from medcap.datasets.chat import BadRow
from medcap.errors import UserError
from medcap.training.reliability.failures import BadRows, BadSteps, explain

CUDA = (
    "CUDA out of memory. Tried to allocate 20.50 GiB. GPU 0 has a total capacity of 139.72 GiB of which 3.25 GiB is"
    " free. Process 1 has 136.47 GiB memory in use."
)
RESUME = "; go on with resume_from_checkpoint=latest"
OTHER_PROCESS = "another process of this run ended or hung; its own message is above or in its node's log"


class Failing(Dataset):
    def __init__(self, fault):
        self.fault = fault

    def __len__(self):
        return 2

    def __getitem__(self, place):
        return self.fault()


def raise_user_error():
    raise UserError("data.json, row 3: not an image")


def raise_os_error():
    raise OSError(5, "Input/output error", "/data/x.png")


def raise_key_error():
    return {}["a"]


def fill_memory():
    return torch.empty(1 << 50)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def explained_by_loader(fault):
    try:
        list(DataLoader(Failing(fault), num_workers=1))
    except Exception as error:
        line = explain(error)
        # Torch's error refers to itself, which leaves the loader to the garbage collector; that closes the workers'
        # queues before the loader can say good-bye through them, and 5 seconds are waited for each worker.
        traceback.clear_frames(error.__traceback__)
        return line
    raise AssertionError("nothing was raised")


@pytest.mark.processes
def test_what_a_worker_raises_is_one_line():
    assert explained_by_loader(raise_user_error) == "data.json, row 3: not an image"
    assert explained_by_loader(raise_os_error) == (
        "a data-loader worker could not read its data: [Errno 5] Input/output error: '/data/x.png'; fix that and go on"
        " from the last checkpoint"
    )
    assert explained_by_loader(fill_memory) == (
        "in a data-loader worker: the system's memory is full (you tried to allocate 4503599627370496 bytes): lower"
        " num_workers, batch_size or dataset.max_seq_len, or give the job more memory"
    )
    assert explained_by_loader(raise_key_error) is None


@pytest.mark.processes
def test_a_worker_that_is_killed_is_explained():
    line = explained_by_loader(die)
    assert line.startswith("a data-loader worker died (pid ")
    assert "killed by signal: Killed)" in line or "exited unexpectedly)" in line  # which it is, is a race in torch
    assert "the system's memory is probably full; lower num_workers" in line


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("DataLoader worker (pid 12) is killed by signal: Bus error. It is possible that dataloader's", "/dev/shm is"),
        ("DataLoader worker (pid 12) is killed by signal: Killed. ", "12 is killed by signal: Killed): the system's m"),
        ("DataLoader worker (pid 12) is killed by signal: Segmentation fault. ", "fault): see with num_workers=0"),
        ("DataLoader worker (pid(s) 12, 13) exited unexpectedly", "(pid 12, 13 exited unexpectedly): the system's mem"),
    ],
)
def test_other_deaths_of_workers(text, cause):
    assert cause in explain(RuntimeError(text))


def test_memory_that_is_full_is_explained_with_the_keys_that_help():
    assert explain(torch.OutOfMemoryError(CUDA)) == (
        "the GPU's memory is full (tried to allocate 20.50 GiB; it has 139.72 GiB): lower batch_size and raise"
        " gradient_accumulation_steps by as much, lower dataset.max_seq_len, or set"
        " activation_memory_budget=0.5"
    )
    assert explain(RuntimeError("CUDA error: out of memory\nmore")).startswith("the GPU's memory is full (CUDA error:")
    with pytest.raises(RuntimeError) as caught:
        fill_memory()
    assert "you tried to allocate 4503599627370496 bytes" in explain(caught.value)
    assert explain(MemoryError()).startswith("the system's memory is full (MemoryError): lower num_workers")
    assert "memory is full" in explain(OSError(12, "Cannot allocate memory"))


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[/pytorch/gloo/transport/tcp/pair.cc:538] Read error [127.0.0.1]:4: Connection reset by peer"),
        RuntimeError("[gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 5000ms for recv operation"),
        RuntimeError("Application timeout caused pair closure"),
        distributed.DistNetworkError("Failed to recv, got 0 bytes. Connection was likely closed."),
        distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:1, remote process exited"),
        ConnectionResetError(104, "Connection reset by peer"),
    ],
    ids=str,
)
def test_a_lost_process_is_explained(error):
    assert explain(error) == f"{OTHER_PROCESS} ({error}){RESUME}"


def test_a_start_without_all_processes_is_explained():
    missing = distributed.DistStoreError("Timed out after 3 seconds waiting for clients. 1/2 clients joined.")
    assert explain(missing).startswith("not all processes of this run started in time (Timed out after 3 seconds")
    taken = distributed.DistNetworkError(
        "The server socket has failed to listen. name: EADDRINUSE, message: in use\nat"
    )
    assert explain(taken).startswith("the port where the processes meet is taken (The server socket")
    assert "\n" not in explain(taken)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("shapes differ"),
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        KeyError("a"),
        FileNotFoundError(2, "No such file or directory", "/data"),
        distributed.DistBackendError(
            "ncclInvalidUsage: Duplicate GPU detected : rank 1 and rank 0 both on device 1000"
        ),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_what_may_be_a_mistake_in_the_code_keeps_its_traceback(error):
    assert explain(error) is None


def test_other_limits_of_the_system_and_user_errors():
    assert explain(UserError("batch_size=0 must be at least 1")) == "batch_size=0 must be at least 1"
    assert "ulimit -n" in explain(OSError(24, "Too many open files"))
    assert "enlarge /dev/shm" in explain(RuntimeError("unable to open shared memory object </torch_1> in read"))


def bad(*numbers):
    return [BadRow(f"data.json, row {number}", f"reason {number}") for number in numbers]


def test_bad_rows_are_counted_once_and_end_the_run_past_the_limit(tmp_path):
    rows = BadRows(num_rows=100, allowed_fraction=0.02, folder=tmp_path / "log")
    assert rows.add(bad(3, 7, 3)) == bad(3, 7) and rows.add(bad(7)) == []
    assert len(rows) == 2
    rows.check()
    assert rows.add(bad(7, 1)) == bad(1)
    with pytest.raises(UserError) as caught:
        rows.check()
    assert str(caught.value) == (
        "3 of 100 rows turned out to be damaged, more than max_bad_fraction=0.02 allows; the last: reason 1"
    )
    assert [json.loads(line) for line in (tmp_path / "log" / "bad_rows.jsonl").read_text().splitlines()] == [
        {"name": "data.json, row 3", "reason": "reason 3"},
        {"name": "data.json, row 7", "reason": "reason 7"},
        {"name": "data.json, row 1", "reason": "reason 1"},
    ]


def test_no_bad_rows_at_all_are_allowed_by_a_fraction_of_zero():
    rows = BadRows(num_rows=100, allowed_fraction=0.0)
    rows.check()
    rows.add(bad(1))
    with pytest.raises(UserError, match="1 of 100 rows"):
        rows.check()


def test_a_resumed_run_counts_and_logs_as_if_it_had_not_stopped(tmp_path):
    file = tmp_path / "bad_rows.jsonl"
    first = BadRows(100, 0.5, tmp_path)
    first.add(bad(1, 2))
    save_tree(tmp_path, "state", first.state())
    first.add(bad(3))  # after the checkpoint, before the run was killed
    first.close()
    with file.open("a") as opened:
        opened.write('{"name": "data.json, ro')

    resumed = BadRows(100, 0.5, tmp_path)
    resumed.load(load_tree(tmp_path, "state"))
    assert len(resumed) == 2
    assert resumed.add(bad(1, 3, 4)) == bad(3, 4)
    assert resumed.state() == {"names": [f"data.json, row {n}" for n in (1, 2, 3, 4)], "last_reason": "reason 4"}
    names = [json.loads(line)["name"] for line in file.read_text().splitlines()]
    assert names == [f"data.json, row {n}" for n in (1, 2, 3, 4)]


def test_a_new_run_starts_the_file_over_and_other_processes_write_none(tmp_path):
    (tmp_path / "bad_rows.jsonl").write_text('{"name": "of an earlier run", "reason": ""}\n')
    BadRows(100, 0.5).add(bad(1))
    rows = BadRows(100, 0.5, tmp_path)
    assert "earlier" in (tmp_path / "bad_rows.jsonl").read_text()
    rows.add([])
    assert (tmp_path / "bad_rows.jsonl").read_text() == ""


def test_the_reason_of_a_checkpoints_last_row_is_still_known():
    rows = BadRows(10, 0.0)
    rows.add(bad(1))
    resumed = BadRows(10, 0.0)
    resumed.load(rows.state())
    with pytest.raises(UserError, match=r"1 of 10 rows .* the last: reason 1"):
        resumed.check()


def test_steps_in_a_row_that_are_not_finite_end_the_run():
    steps = BadSteps(most=3)
    assert steps.add(5, ["a", "b"]) == "step 5 skipped: loss or gradient is not finite; its records: a, b"
    steps.add(6, ["c"])
    steps.good()
    steps.add(8, ["d"])
    steps.add(9, ["d"])
    resumed = BadSteps(most=3)
    resumed.load(steps.state())
    with pytest.raises(UserError) as caught:
        resumed.add(10, list("abcdefg"))
    assert str(caught.value) == (
        "3 steps in a row had a loss or gradient that is not finite: lower optimizer.lr or set clip_grad_norm; the"
        " last: step 10, its records: a, b, c, d, e and 2 more"
    )


def test_a_reason_does_not_repeat_the_row_s_name(tmp_path):
    rows = BadRows(10, 0.0, tmp_path)
    row = BadRow("data.json, row 2", "data.json, row 2: no token is left to learn")
    assert rows.add([row]) == [BadRow("data.json, row 2", "no token is left to learn")]
    assert json.loads((tmp_path / "bad_rows.jsonl").read_text()) == {
        "name": "data.json, row 2",
        "reason": "no token is left to learn",
    }
    with pytest.raises(UserError, match=r"the last: data.json, row 2: no token is left to learn"):
        rows.check()
