"""The processes that torchrun started for one program: their ranks, their devices, and the store where they meet."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from medcap.checkpoints.build_model import choose_device
from medcap.errors import UserError
from medcap.reporting import QUIET_SECONDS
from medcap.workers import num_processors

T = TypeVar("T")

_STARTED_BY_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# The second is an older name of the first.
_ALLOCATOR_SETTINGS = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_POLL_SECONDS = 0.05
_PARENT_CHECK_SECONDS = 1.0


class FailedElsewhere(UserError):
    """Another process failed and reports the reason."""


@dataclass
class Processes:
    """The processes of a program.

    Attributes:
        rank: rank of this process among all.
        size: how many there are, on all nodes.
        local_rank: rank of this process on its node.
        local_size: how many there are on each node.
        device: device of this process.
        timeout: time after which a process that cannot reach the others gives up.
        store: where the processes leave values for each other; None for one process.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    timeout: timedelta = timedelta(minutes=10)
    store: dist.Store | None = field(default=None, repr=False)
    _turns: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    @property
    def node(self) -> int:
        """Number of this process's node."""
        return self.rank // self.local_size

    def main_first(self, function: Callable[[], T], key: str) -> T:
        """Run a function on the first process of each node, then on the others, which find what it left in a cache.

        The others wait as long as it takes: no collective is used, so no timeout applies.

        Args:
            function: what to run.
            key: names it; every process makes its calls with a key in the same order.

        Returns:
            The function's result on this process.

        Raises:
            FailedElsewhere: on the other processes, if the function raised on the first process, which raises the
                original error.
            UserError: on the other processes, if the first one ended without a word.
        """
        if self.local_size == 1 or self.store is None:
            return function()
        turn = self._turns[key] = self._turns.get(key, 0) + 1
        location = f"main_first/{key}/{turn}/{self.node}"
        if self.local_rank == 0:
            try:
                result = function()
            except BaseException:
                self.store.set(location, "failed")
                raise
            self.store.set(location, "done")
            return result
        first = self.rank - self.local_rank
        # Poll in Python, not in the store's wait, so that a signal is handled at once.
        try:
            while not self.store.check([location]):
                time.sleep(_POLL_SECONDS)
            failed = self.store.get(location) == b"failed"
        except RuntimeError as error:  # torch's store errors are; its server ended, so the first process did
            raise UserError(f"{key} failed on rank {first}: see its message") from error
        if failed:
            raise FailedElsewhere(f"{key} failed on rank {first}: see its message")
        return function()

    def claim(self, key: str) -> bool:
        """Be the one process that does something, such as reporting an error that all of them meet.

        Args:
            key: names what is done.

        Returns:
            True for the first process that asks, and for all if they cannot ask each other any more.
        """
        if self.store is None:
            return True
        try:
            return self.store.add(f"claim/{key}", 1) == 1
        except (RuntimeError, OSError):  # the store's server has ended; its errors are RuntimeErrors
            return True


def one_process(device: torch.device) -> Processes:
    """Return a program of one process.

    Args:
        device: device of the process.
    """
    return Processes(rank=0, size=1, local_rank=0, local_size=1, device=device)


def join_processes(device: str, timeout_minutes: float = 10) -> Processes:
    """Meet the other processes of a program that runs in one or several; no collective is used.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``, for one process also ``cuda:N``.
        timeout_minutes: time after which a process that cannot reach the others gives up.

    Returns:
        The processes that torchrun started, or this one alone.

    Raises:
        UserError: if the device is not there, or the other processes cannot be reached.
    """
    if not all(name in os.environ for name in _STARTED_BY_TORCHRUN) or os.environ["WORLD_SIZE"] == "1":
        return one_process(choose_device(device))
    place = find_place(device, timedelta(minutes=timeout_minutes), "")
    place.store = dist.PrefixStore("medcap", meet(place))
    return place


def find_place(device: str, timeout: timedelta, one_instead: str) -> Processes:
    """Read from the environment which of torchrun's processes this is, and take its device.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; each process of a node takes the GPU of its number.
        timeout: time after which a process that cannot reach the others gives up.
        one_instead: what to do where torchrun did not start the process.

    Returns:
        The processes, without a store yet.

    Raises:
        UserError: if torchrun did not start this process, or if a node has fewer GPUs than processes.
    """
    absent = [name for name in _STARTED_BY_TORCHRUN if name not in os.environ]
    if absent:
        raise UserError(f"{absent[0]} is not set: this recipe runs in several processes, so {one_instead}")
    # Started by other means, the parent may be a shell that is free to leave.
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _end_with_torchrun()
    rank, size, local_rank, local_size = (int(os.environ[name]) for name in _STARTED_BY_TORCHRUN[:4])
    chosen = _choose_local_device(device, local_rank, local_size)
    if chosen.type == "cuda":
        let_memory_grow()
        torch.cuda.set_device(chosen)
    elif local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, num_processors() // local_size))
    return Processes(rank, size, local_rank, local_size, chosen, timeout)


def meet(place: Processes) -> dist.Store:
    """Reach the store of all processes.

    Args:
        place: which process this is.

    Returns:
        The store. torchrun holds it, so it outlives each process; started by other means, the first process does.

    Raises:
        UserError: if it cannot be reached.
    """
    try:
        store, _, _ = next(dist.rendezvous("env://", place.rank, place.size, timeout=place.timeout))
    except (RuntimeError, ValueError, OSError) as error:
        raise not_met(place, error) from error
    return store


def not_met(place: Processes, error: Exception) -> UserError:
    """Return the error of a process that cannot reach the others.

    Args:
        place: which process this is.
        error: torch's reason.
    """
    address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return UserError(
        f"rank {place.rank} of {place.size} cannot meet the others at {address} ({reason}): check that all"
        " processes of all nodes are started with the same --rdzv_endpoint and can reach it"
    )


@contextlib.contextmanager
def silent_if_reported() -> Generator[None]:
    """End this process without a word where another one reports the error.

    Raises:
        SystemExit: with status 2 for a :class:`FailedElsewhere` in the block.
    """
    try:
        yield
    except FailedElsewhere:
        # torchrun ends all processes when one has ended: the one that has the message must come to it.
        time.sleep(QUIET_SECONDS)
        sys.exit(2)


def let_memory_grow() -> None:
    """Let the allocator's pieces of memory grow, unless the user has settings of their own.

    Batches of many shapes would otherwise leave pieces that fit none of the next. Read when the GPU is first used.
    """
    if not any(name in os.environ for name in _ALLOCATOR_SETTINGS):
        os.environ[_ALLOCATOR_SETTINGS[0]] = "expandable_segments:True"


def _choose_local_device(name: str, local_rank: int, local_size: int) -> torch.device:
    device = choose_device(name)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise UserError(f"device={name}: each process takes the GPU of its number; use device=cuda")
    if local_size > torch.cuda.device_count():
        raise UserError(
            f"--nproc_per_node {local_size}: this machine has {torch.cuda.device_count()} GPUs; start at most as many"
            " processes, or use device=cpu"
        )
    return torch.device("cuda", local_rank)


def _end_with_torchrun() -> None:
    """Ask this process to stop when torchrun has ended: otherwise it would still run when the next run starts."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_PARENT_CHECK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="torchrun-watch").start()
