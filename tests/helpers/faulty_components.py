"""A projector and a dataset that fail as they are told to."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.datasets.chat import chat_dataset
from medcap.datasets.chat_rows import ChatDataset
from medcap.models.projectors.mlp import PatchMLP
from medcap.models.towers.base import TowerShape


def faulty_mlp(
    tower_shape: TowerShape,
    llm_dim: int,
    num_image_tokens: int | None = None,
    rank: int | None = 0,
    nan_calls: list[int] | None = None,
    out_of_memory_call: int | None = None,
    bug_call: int | None = None,
    signal_call: int | None = None,
    signal_evaluation: int | None = None,
    signal_number: int = 15,
    hold_calls: list[int] | None = None,
    hold_folder: str = "",
    delay: float = 0.0,
) -> FaultyMLP:
    """A patch MLP whose forward pass in training, counted from 1, goes wrong on one rank.

    Args:
        tower_shape: shape of the tower's output.
        llm_dim: width of the language model's embeddings.
        num_image_tokens: the tower's, or absent.
        rank: where it happens; None means everywhere.
        nan_calls: passes that give NaN.
        out_of_memory_call: the pass that finds no memory.
        bug_call: the pass that raises something unexpected.
        signal_call: the pass in which the process gets a signal, twice.
        signal_evaluation: whether to signal in an evaluation pass instead; these are counted separately.
        signal_number: which signal.
        hold_calls: passes that wait until the test lets them go on (``faulty_runs.Holds``).
        hold_folder: where they tell so.
        delay: seconds that each pass takes, on all ranks.
    """
    here = rank is None or int(os.environ.get("RANK", "0")) == rank
    faults = {
        "nan": (nan_calls or []) if here else [],
        "memory": [out_of_memory_call] if here else [],
        "bug": [bug_call] if here else [],
        "hold": (hold_calls or []) if here else [],
        "signal": [signal_call] if here else [],
        "signal_evaluation": [signal_evaluation] if here else [],
    }
    return FaultyMLP(tower_shape, llm_dim, faults, signal_number, Path(hold_folder), delay)


class FaultyMLP(PatchMLP):
    """What ``faulty_mlp`` makes.

    Args:
        tower_shape: shape of the tower's output.
        llm_dim: width of the language model's embeddings.
        faults: what happens -> the numbers of the passes.
        signal_number: which signal.
        hold_folder: where a pass tells that it waits.
        delay: seconds that each pass takes.
    """

    def __init__(
        self,
        tower_shape: TowerShape,
        llm_dim: int,
        faults: dict[str, list[int]],
        signal_number: int,
        hold_folder: Path,
        delay: float,
    ) -> None:
        super().__init__(tower_shape, llm_dim, [llm_dim], None, None)
        self.faults, self.signal_number, self.hold_folder, self.delay = faults, signal_number, hold_folder, delay
        self.calls = {True: 0, False: 0}

    def forward(self, patches: Tensor) -> Tensor:
        """As the patch MLP, or not."""
        self.calls[self.training] += 1
        call = self.calls[self.training]
        time.sleep(self.delay)
        rows = super().forward(patches)
        if call in self.faults["signal" if self.training else "signal_evaluation"]:
            os.kill(os.getpid(), self.signal_number)
            os.kill(os.getpid(), self.signal_number)
        if not self.training:
            return rows
        if call in self.faults["hold"]:
            (self.hold_folder / f"waits_{call}").touch()
            while not (self.hold_folder / f"go_on_{call}").exists():
                time.sleep(0.01)
        if call in self.faults["memory"]:
            raise torch.OutOfMemoryError(
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 4.00 GiB"
            )
        if call in self.faults["bug"]:
            raise ArithmeticError("an unexpected thing")
        return rows * float("nan") if call in self.faults["nan"] else rows


class UnreadableDataset(ChatDataset):
    """A dataset on a disk that fails after the first rows."""

    def load(self, plan: Any, start: int, stop: int, transform: Any, own_picture: Any = None) -> Any:
        """As ``ChatDataset.load``, up to the tenth item."""
        if stop > 9:
            raise OSError(5, "Input/output error", "/data/train.jsonl")
        return super().load(plan, start, stop, transform, own_picture)


def unreadable_dataset(tokenizer: ChatTokenizer, *, source: str, max_seq_len: int, packed: bool) -> UnreadableDataset:
    """Chats that a worker cannot read to the end.

    Args:
        tokenizer: given by the recipe.
        source: the data file.
        max_seq_len: tokens that a sample keeps.
        packed: whether rows are packed.
    """
    dataset = chat_dataset(tokenizer, source=source, max_seq_len=max_seq_len, packed=packed)
    dataset.__class__ = UnreadableDataset
    return dataset
