"""Checkpoints of a run: ``step_NNNNNN`` folders that are complete or invisible, and exact resume from them."""

from __future__ import annotations

import random
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from medcap.checkpoints.atomic import (
    atomic_folder,
    is_complete,
    latest_checkpoint,
    point_latest,
    step_folder,
    step_of,
)
from medcap.checkpoints.vision import save_meta_model, save_vision
from medcap.errors import UserError
from medcap.models.vision_language_model import VisionLanguageModel

STATE_FILE = "state/training_state.pt"


@dataclass
class Position:
    """Where a run is.

    Attributes:
        step: optimizer steps made.
        epoch: the epoch it is in, from 0.
        batch: batches of that epoch it has used.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0


class RunCheckpoints:
    """The checkpoints of one run.

    Args:
        folder: holds the step folders and ``latest``.
        projector_config: what rebuilds the projector, ``_component_`` and arguments.
        llm: identity of the language model, written beside the vision weights.
        keep_last: how many to keep; None keeps all.
    """

    def __init__(
        self, folder: Path, projector_config: dict[str, Any], llm: dict[str, Any], keep_last: int | None = None
    ) -> None:
        self.folder = folder
        self.projector_config = projector_config
        self.llm = llm
        self.keep_last = keep_last

    def save(
        self, model: VisionLanguageModel, optimizer: Optimizer, scheduler: LRScheduler | None, position: Position
    ) -> Path:
        """Write the vision weights and everything that an exact resume needs.

        Returns:
            The new folder.
        """
        folder = step_folder(self.folder, position.step)
        with atomic_folder(folder) as temporary:
            save_vision(temporary, model.tower, model.projector, self.projector_config, self.llm)
            (temporary / "state").mkdir()
            state = {
                "position": asdict(position),
                "optimizer": optimizer.state_dict(),
                "scheduler": None if scheduler is None else scheduler.state_dict(),
                "random": _random_state(),
            }
            torch.save(state, temporary / STATE_FILE)
        point_latest(folder)
        self._remove_old()
        return folder

    def save_meta_model(self, model: VisionLanguageModel, epoch: int) -> None:
        """Write medcap's ``meta_model_{epoch}.pt``, epochs counted from 1."""
        save_meta_model(self.folder / f"meta_model_{epoch}.pt", model.tower, model.projector)

    def restore(
        self, folder: Path, model: VisionLanguageModel, optimizer: Optimizer, scheduler: LRScheduler | None
    ) -> Position:
        """Put model, optimizer, schedule and random numbers back to where they were.

        Raises:
            UserError: if the state is missing or belongs to another optimizer or model.
        """
        file = folder / STATE_FILE
        if not file.is_file():
            raise UserError(f"resume_from_checkpoint: {folder} holds no {STATE_FILE}, so it cannot be resumed from")
        state = torch.load(file, map_location="cpu", weights_only=True)
        weights = load_file(folder / "vision.safetensors")
        for prefix, module in (("vision.", model.tower), ("projector.", model.projector)):
            module.load_state_dict({k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)})
        try:
            optimizer.load_state_dict(state["optimizer"])
        except ValueError as error:
            raise UserError(f"resume_from_checkpoint: {folder} was made with other trainable parts: {error}") from error
        if scheduler is not None and state["scheduler"] is not None:
            scheduler.load_state_dict(state["scheduler"])
        _set_random_state(state["random"])
        return Position(**state["position"])

    def _remove_old(self) -> None:
        if self.keep_last is None:
            return
        complete = [path for path in self.folder.glob("step_*") if step_of(path) is not None and is_complete(path)]
        for path in sorted(complete, key=step_of)[: -self.keep_last]:
            shutil.rmtree(path)


def find_resume_folder(resume_from: bool | str, folder: Path) -> Path | None:
    """Which checkpoint ``resume_from_checkpoint`` means.

    Args:
        resume_from: False; True or ``latest`` for the newest complete one (none is no mistake: the run starts);
            or a step folder.
        folder: where this run's checkpoints are.

    Returns:
        The folder, None to start anew.

    Raises:
        UserError: if a named folder is not a complete checkpoint.
    """
    if resume_from is False:
        return None
    if resume_from is True or resume_from == "latest":
        return latest_checkpoint(folder)
    named = Path(str(resume_from))
    if not is_complete(named):
        raise UserError(f"resume_from_checkpoint={named} is not a complete checkpoint folder (no COMPLETE in it)")
    return named


def _random_state() -> dict[str, Any]:
    version, numbers, gauss = random.getstate()
    algorithm, keys, place, has_gauss, cached = np.random.get_state()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [algorithm, torch.from_numpy(keys.copy()), place, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _set_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    algorithm, keys, place, has_gauss, cached = state["numpy"]
    np.random.set_state((algorithm, keys.numpy(), place, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
