import os
import signal
import traceback

import pytest
import torch
from torch import distributed
from torch.utils.data import DataLoader, Dataset

from medcap.errors import UserError
from medcap.training.reliability.failures import explain

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

    def __getitem__(self, position):
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
