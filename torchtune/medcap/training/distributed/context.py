"""The processes of a run: their ranks, and the few values that they exchange besides gradients."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from medcap.checkpoints.build_model import choose_device
from medcap.errors import UserError
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
class DistributedContext:
    """The processes of a run.

    Attributes:
        rank: rank of this process among all.
        size: how many there are, on all nodes.
        local_rank: rank of this process on its node.
        local_size: how many there are on each node.
        device: device of this process.
        timeout: time after which a collective fails if a process has not joined it.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    timeout: timedelta = timedelta(minutes=10)
    _store: dist.Store | None = field(default=None, repr=False)
    _turns: dict[str, int] = field(default_factory=dict, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes the files and speaks to the user."""
        return self.rank == 0

    @property
    def node(self) -> int:
        """Number of this process's node."""
        return self.rank // self.local_size

    def sum(self, values: Sequence[float]) -> list[float]:
        """Add numbers up over all processes, in float64, on the CPU: no GPU is waited for.

        Args:
            values: numbers to add; the same count on every process.

        Returns:
            The sums, the same bits on every process: they are added in the order of the ranks.
        """
        if self.size == 1:
            return list(values)
        rows = self._gather_tensor(torch.tensor(values, dtype=torch.float64))
        return [sum(column) for column in zip(*(row.tolist() for row in rows), strict=True)]

    def gather(self, value: Any) -> list[Any]:
        """Let every process know what each has.

        Args:
            value: anything that JSON can hold; a tuple becomes a list.

        Returns:
            One value a rank, on every rank.
        """
        return [json.loads(text) for text in self._gather_bytes(json.dumps(value).encode())]

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
        if self.local_size == 1 or self._store is None:
            return function()
        turn = self._turns[key] = self._turns.get(key, 0) + 1
        location = f"main_first/{key}/{turn}/{self.node}"
        if self.local_rank == 0:
            try:
                result = function()
            except BaseException:
                self._store.set(location, "failed")
                raise
            self._store.set(location, "done")
            return result
        first = self.rank - self.local_rank
        # Poll in Python, not in the store's wait, so that a signal is handled at once.
        try:
            while not self._store.check([location]):
                time.sleep(_POLL_SECONDS)
            failed = self._store.get(location) == b"failed"
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
        if self._store is None:
            return True
        try:
            return self._store.add(f"claim/{key}", 1) == 1
        except (RuntimeError, OSError):  # the store's server has ended; its errors are RuntimeErrors
            return True

    def leave(self) -> None:
        """End the process's part in all collectives."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    def _gather_bytes(self, own: bytes) -> list[bytes]:
        # torch's own collectives for objects pickle them.
        if self.size == 1:
            return [own]
        lengths = [int(length) for length in self._gather_tensor(torch.tensor([len(own)]))]
        padded = torch.zeros(max(lengths), dtype=torch.uint8)
        padded[: len(own)] = torch.frombuffer(bytearray(own), dtype=torch.uint8)
        rows = self._gather_tensor(padded)
        return [row[:length].numpy().tobytes() for row, length in zip(rows, lengths, strict=True)]

    def _gather_tensor(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        rows = [torch.empty_like(tensor) for _ in range(self.size)]
        dist.all_gather(rows, tensor)
        return rows


def single_world(device: torch.device) -> DistributedContext:
    """Return a run of one process.

    Args:
        device: device of the process. A GPU without a number is the first: tensors on it say ``cuda:0``, which is not
            equal to ``cuda``.
    """
    if device.type == "cuda":
        _let_memory_grow()
        device = torch.device("cuda", device.index or 0)
    return DistributedContext(rank=0, size=1, local_rank=0, local_size=1, device=device)


def join_world(device: str, timeout_minutes: float) -> DistributedContext:
    """Meet the other processes that torchrun (``tune run --nproc_per_node N``) started.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``; each process of a node takes the GPU of its number.
        timeout_minutes: time after which a collective fails if a process has not joined it, on the CPU and on the GPU.

    Returns:
        The world; its collectives on CPU tensors use gloo, on GPU tensors NCCL.

    Raises:
        UserError: if torchrun did not start this process, if a node has fewer GPUs than processes, or if the other
            processes cannot be reached.
    """
    absent = [name for name in _STARTED_BY_TORCHRUN if name not in os.environ]
    if absent:
        raise UserError(
            f"{absent[0]} is not set: this recipe runs in several processes, so start it with tune run --nproc_per_node"
            " 2 medcap/recipes/full_finetune_distributed --config ..., or take full_finetune_single_device"
        )
    # Started by other means, the parent may be a shell that is free to leave.
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _end_with_torchrun()
    rank, size, local_rank, local_size = (int(os.environ[name]) for name in _STARTED_BY_TORCHRUN[:4])
    chosen = _choose_local_device(device, local_rank, local_size)
    timeout = timedelta(minutes=timeout_minutes)
    if chosen.type == "cuda":
        _let_memory_grow()
        torch.cuda.set_device(chosen)
    elif local_size > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, num_processors() // local_size))
    if size == 1:
        return DistributedContext(rank, size, local_rank, local_size, chosen, timeout)
    try:
        store, _, _ = next(dist.rendezvous("env://", rank, size, timeout=timeout))
        dist.init_process_group(
            backend="cpu:gloo,cuda:nccl" if chosen.type == "cuda" else "gloo",
            store=dist.PrefixStore("collectives", store),
            rank=rank,
            world_size=size,
            timeout=timeout,
        )
    except (RuntimeError, ValueError, OSError) as error:
        address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"rank {rank} of {size} cannot meet the others at {address} ({reason}): check that all processes of all"
            " nodes are started with the same --rdzv_endpoint and can reach it"
        ) from error
    return DistributedContext(rank, size, local_rank, local_size, chosen, timeout, dist.PrefixStore("medcap", store))


def _let_memory_grow() -> None:
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
