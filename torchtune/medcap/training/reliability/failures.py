"""What goes wrong on a long run: the one line for an error."""

from __future__ import annotations

import errno
import re
import resource
from collections.abc import Iterator

import torch
from torch import distributed

from medcap.errors import UserError
from medcap.training.reliability.loader_worker import (
    OUT_OF_FILES,
    OUT_OF_SHARED_MEMORY,
    SHARED_MEMORY,
    is_out_of_files,
)

_WORKER_TRACEBACK = re.compile(r"Caught (\w+) in .*DataLoader worker process \d+\.\nOriginal Traceback")
_WORKER_DIED = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (is killed by signal: [\w ]+|exited unexpectedly)"
)
_NO_SHARED_MEMORY = (*SHARED_MEMORY, f"exit code {OUT_OF_SHARED_MEMORY}.")
_CPU_MEMORY = ("can't allocate memory", "not enough memory", "std::bad_alloc", "Cannot allocate memory")
_GPU_MEMORY = ("CUDA out of memory", "CUDA error: out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "Cuda failure 2 ")
# gloo raises plain RuntimeErrors; only their text tells them from others.
_CONNECTION = (
    "gloo/transport/",
    "Application timeout caused pair closure",
    "Connection closed by peer",
    "Connection reset by peer",
    "Socket Timeout",
    "wait timeout after",
    "monitoredBarrier",
)
# Below, a handful of workers may need more.
_FEW_OPEN_FILES = 256


def explain(error: BaseException) -> str | None:
    """Return the one line for an error whose cause is not in this program's code.

    Args:
        error: anything that training raised.

    Returns:
        The message: what happened and what to do about it. None for everything that may be a mistake in the code, whose
        traceback is worth more than a line.
    """
    text = str(error)
    in_worker = _WORKER_TRACEBACK.search(text)
    if in_worker:
        return _explain_in_worker(error, text, in_worker[1])
    if isinstance(error, UserError):
        return text
    died = _WORKER_DIED.search(text)
    files = _explain_open_files(error, text)
    if files is not None:
        return files
    if any(words in str(met) for met in _chain(error) for words in _NO_SHARED_MEMORY):
        return f"the data loader ran out of shared memory ({_first_line(text)}): lower num_workers or enlarge /dev/shm"
    if died or _lost_worker(error):
        return _explain_death(text, died)
    memory = _explain_memory(error, text)
    if memory is not None:
        return memory
    return _explain_connection(error, text)


def _explain_open_files(error: BaseException, text: str) -> str | None:
    """Return the limit of open files, met by this process or by a data-loader worker."""
    for met in _chain(error):
        if is_out_of_files(met) or f"exit code {OUT_OF_FILES}." in str(met):
            return (
                f"too many files are open ({_first_line(text)}): lower num_workers, or raise the limit of"
                f" {_open_files_limit()} (ulimit -n)"
            )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _open_files_limit() -> int:
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _explain_in_worker(error: BaseException, text: str, kind: str) -> str | None:
    """Torch packs a worker's traceback into the message, and the error's class is that of the worker's."""
    lines = text.rstrip().splitlines()
    starts = [position for position, line in enumerate(lines) if re.match(rf"(?:[\w.]+\.)?{kind}(?::|$)", line)]
    if not starts:
        return None
    message = " ".join(lines[starts[-1] :]).partition(": ")[2]
    if kind == "UserError":
        return message
    memory = _explain_memory(error, message)
    if memory is not None:
        return f"in a data-loader worker: {memory}"
    if isinstance(error, OSError):
        return f"a data-loader worker could not read its data: {message}; fix that and go on from the last checkpoint"
    return None


def _explain_death(text: str, died: re.Match[str] | None) -> str:
    what = f"a data-loader worker died (pid {died[1]} {died[2].strip()})" if died else "a data-loader worker died"
    if "Bus error" in text or "shared memory" in text:
        return f"{what}: /dev/shm is probably full; lower num_workers, or give the job more shared memory"
    if "killed by signal" in text and "Killed" not in text:
        return f"{what}: see with num_workers=0 which row it is that crashes, and remove it"
    # A worker's exit status is not always known.
    files = f", or raise the limit of {_open_files_limit()} open files (ulimit -n)"
    return f"{what}: the system's memory is probably full; lower num_workers, or give the job more memory" + files * (
        _open_files_limit() < _FEW_OPEN_FILES
    )


def _explain_memory(error: BaseException, text: str) -> str | None:
    if isinstance(error, torch.OutOfMemoryError) or any(part in text for part in _GPU_MEMORY):
        asked = re.search(r"Tried to allocate ([\d.]+ \w+)", text)
        total = re.search(r"total capacity of ([\d.]+ \w+)", text)
        parts = [f"tried to allocate {asked[1]}" if asked else _first_line(text), f"it has {total[1]}" if total else ""]
        return (
            f"the GPU's memory is full ({'; '.join(part for part in parts if part)}): lower batch_size and raise"
            " gradient_accumulation_steps by as much, lower dataset.max_seq_len, or set"
            " activation_memory_budget=0.5"
        )
    no_memory = isinstance(error, OSError) and error.errno == errno.ENOMEM
    if isinstance(error, MemoryError) or no_memory or any(part in text for part in _CPU_MEMORY):
        asked = re.search(r"you tried to allocate \d+ bytes", text)
        return (
            f"the system's memory is full ({asked[0] if asked else _first_line(text) or 'MemoryError'}): lower"
            " num_workers, batch_size or dataset.max_seq_len, or give the job more memory"
        )
    return None


def _explain_connection(error: BaseException, text: str) -> str | None:
    # This class exists only where torch was built with distributed training.
    lost = (ConnectionError, getattr(distributed, "DistError", ConnectionError))
    by_text = isinstance(error, RuntimeError) and any(part in text for part in _CONNECTION)
    if not isinstance(error, lost) and not by_text:
        return None
    line = _first_line(text)
    if "EADDRINUSE" in text:
        return f"the port where the processes meet is taken ({line}): choose another, --master_port or --rdzv_endpoint"
    if "clients joined" in text:
        return f"not all processes of this run started in time ({line}): look for their own messages, on every node"
    if "invalid usage" in text or "Duplicate GPU" in text:
        return None
    return (
        f"another process of this run ended or hung; its own message is above or in its node's log ({line});"
        " go on with resume_from_checkpoint=latest"
    )


def _lost_worker(error: BaseException) -> bool:
    """Return whether receiving a batch's tensors failed because the worker that holds them has ended."""
    if not isinstance(error, ConnectionError | EOFError | FileNotFoundError):
        return False
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == "torch.multiprocessing.reductions":
            return True
        trace = trace.tb_next
    return False


def _first_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[0]
