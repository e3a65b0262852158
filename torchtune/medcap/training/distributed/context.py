"""The processes of a training run, and the few values that they exchange besides gradients."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from medcap.processes import FailedElsewhere, Processes, find_place, let_memory_grow, meet, not_met

__all__ = ["DistributedContext", "FailedElsewhere", "join_world", "single_world"]


@dataclass
class DistributedContext(Processes):
    """The processes of a run and their collectives; ``timeout`` is the time after which a collective fails if a process
    has not joined it."""

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
        let_memory_grow()
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
    place = find_place(
        device,
        timedelta(minutes=timeout_minutes),
        "start it with tune run --nproc_per_node 2 medcap/recipes/full_finetune_distributed --config ..., or take"
        " full_finetune_single_device",
    )
    rank, size, timeout = place.rank, place.size, place.timeout
    world = DistributedContext(rank, size, place.local_rank, place.local_size, place.device, timeout)
    if size == 1:
        return world
    store = meet(place)
    try:
        dist.init_process_group(
            backend="cpu:gloo,cuda:nccl" if place.device.type == "cuda" else "gloo",
            store=dist.PrefixStore("collectives", store),
            rank=rank,
            world_size=size,
            timeout=timeout,
        )
    except (RuntimeError, ValueError, OSError) as error:
        raise not_met(place, error) from error
    world.store = dist.PrefixStore("medcap", store)
    return world
