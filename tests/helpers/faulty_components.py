"""A projector that fails as it is told to."""

from __future__ import annotations

import os
import time

import torch
from torch import Tensor

from medcap.models.projectors.mlp import PatchMLP
from medcap.models.towers.base import TowerShape


def faulty_mlp(
    tower_shape: TowerShape,
    llm_dim: int,
    num_image_tokens: int | None = None,
    rank: int = 0,
    nan_calls: list[int] | None = None,
    out_of_memory_call: int | None = None,
    bug_call: int | None = None,
    delay: float = 0.0,
) -> FaultyMLP:
    """A patch MLP whose forward pass, counted from 1, goes wrong on one rank.

    Args:
        tower_shape: what the tower gives.
        llm_dim: width of the language model's embeddings.
        num_image_tokens: the tower's, or absent.
        rank: where it happens.
        nan_calls: passes that give NaN.
        out_of_memory_call: the pass that finds no memory.
        bug_call: the pass that raises something unexpected.
        delay: seconds that each pass takes, on all ranks.
    """
    return FaultyMLP(tower_shape, llm_dim, rank, nan_calls or [], out_of_memory_call, bug_call, delay)


class FaultyMLP(PatchMLP):
    def __init__(
        self,
        tower_shape: TowerShape,
        llm_dim: int,
        rank: int,
        nan_calls: list[int],
        out_of_memory_call: int | None,
        bug_call: int | None,
        delay: float,
    ) -> None:
        super().__init__(tower_shape, llm_dim, llm_dim, None, None)
        self.here = int(os.environ.get("RANK", "0")) == rank
        self.nan_calls, self.out_of_memory_call, self.bug_call = nan_calls, out_of_memory_call, bug_call
        self.delay = delay
        self.calls = 0

    def forward(self, patches: Tensor) -> Tensor:
        self.calls += 1
        time.sleep(self.delay)
        rows = super().forward(patches)
        if not self.here:
            return rows
        if self.calls == self.out_of_memory_call:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4.00 GiB"
            )
        if self.calls == self.bug_call:
            raise ArithmeticError("an unexpected thing")
        return rows * float("nan") if self.calls in self.nan_calls else rows
