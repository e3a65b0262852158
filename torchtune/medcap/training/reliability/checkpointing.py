"""Checkpoints of a run: ``step_NNNNNN`` folders that are complete or invisible, and exact resume from them."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medcap.checkpoints.atomic import (
    MARKER,
    atomic_folder,
    is_complete,
    latest_checkpoint,
    point_latest,
    remove_folder,
    restore_interrupted,
    step_folder,
    step_of,
)
from medcap.checkpoints.history import History
from medcap.checkpoints.tensor_tree import CpuCopies, check_tree, load_tree, save_tree
from medcap.checkpoints.vision_files import WEIGHTS_FILE, read_vision_checkpoint, save_components, save_meta_model
from medcap.errors import UserError
from medcap.models.component import Component
from medcap.models.component_registry import VISION_SIDE
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.training.reliability.checkpoint_writer import BackgroundWriter, describe_failure

STATE_FOLDER = "state"
_LEFTOVERS = (".step_*.partial", ".meta_model_*.pt.partial", ".latest.partial")
_FORMER_STATE_FILE = "state/training_state.pt"


@dataclass
class Position:
    """Where a run is.

    Attributes:
        step: optimizer steps made.
        epoch: the epoch it is in, from 0.
        unit: batch items of that epoch's plan already used: packed rows, or samples.
    """

    step: int = 0
    epoch: int = 0
    unit: int = 0


class RunCheckpoints:
    """The checkpoints of one run, written in the background.

    Args:
        folder: holds the step folders, ``latest`` and the ``meta_model_{epoch}.pt`` files.
        llm: identity of the language model, written next to the weights, with its value when ``save`` is called.
        keep_last: how many to keep; None keeps all.
        is_main: whether this process writes. It then removes what a killed run left half written.
        history: where the weights come from; a restored checkpoint says what came before it.
    """

    def __init__(
        self,
        folder: Path,
        llm: Mapping[str, Any],
        keep_last: int | None = None,
        is_main: bool = True,
        history: History | None = None,
    ) -> None:
        self.folder = folder
        self.llm = llm
        self.history = history or History()
        self.keep_last = keep_last
        self._copies = CpuCopies()
        self._writer = BackgroundWriter()
        if is_main:
            restore_interrupted(folder)
            for path in folder.iterdir() if folder.is_dir() else ():
                if any(path.match(pattern) for pattern in _LEFTOVERS):
                    with contextlib.suppress(OSError):  # they only take room
                        remove_folder(path)

    def save(
        self,
        step: int,
        components: Iterable[Component],
        state: Mapping[str, Any],
        meta_model_epoch: int | None = None,
    ) -> None:
        """Copy everything to the CPU, then write it in the background. Only on the main process.

        A failure to write is a line of ``messages``. An earlier write that still runs is waited for.

        Args:
            step: optimizer steps made; names the folder.
            components: the model's; they may change as soon as this returns.
            state: what ``restore`` returns later, in the form that ``save_tree`` takes.
            meta_model_epoch: also write medcap 2024's ``meta_model_{epoch}.pt``, epochs counted from 1.

        Raises:
            UserError: if the state holds something that cannot be written; the message says where.
        """
        self._writer.wait()  # the copies of an earlier save are in use until then
        live = {component.name: component.state() for component in components}
        copied = self._copies.copy(
            {"components": {name: dict(part.tensors) for name, part in live.items()}, "state": dict(state)}
        )
        # Checked now and not in the background, because no later save could repair it.
        check_tree(copied["state"])
        states = {name: replace(part, tensors=copied["components"][name]) for name, part in live.items()}
        folder, llm, history = step_folder(self.folder, step), dict(self.llm), self.history.entries(step)

        def write() -> list[str]:
            if meta_model_epoch is not None:
                # Written first: a resume at an epoch's end then finds that epoch's file as well.
                file = self.folder / f"meta_model_{meta_model_epoch}.pt"
                tower, projector = (states[name] for name in VISION_SIDE)
                save_meta_model(file, tower, projector)
            with atomic_folder(folder) as temporary:
                save_components(temporary, list(states.values()), llm, history)
                save_tree(temporary / STATE_FOLDER, STATE_FOLDER, copied["state"])
            point_latest(folder)
            return self._remove_old(folder)

        self._writer.start(step, folder, write)

    def messages(self) -> list[str]:
        """Lines for the user since the last call: what was saved, what could not be."""
        return self._writer.messages()

    def finish(self) -> None:
        """Wait for the last write.

        Raises:
            UserError: if it failed: the run's result is not on disk.
        """
        self._writer.finish()

    def restore(self, folder: Path, model: VisionLanguageModel) -> dict[str, Any]:
        """Load the components' weights of a checkpoint into the model.

        Args:
            folder: a complete step folder.
            model: its components are overwritten.

        Returns:
            The state that was given to ``save``.

        Raises:
            UserError: if the state or the weights are missing, damaged or belong to another model.
        """
        if not (folder / STATE_FOLDER / f"{STATE_FOLDER}.json").is_file():
            former = (folder / _FORMER_STATE_FILE).is_file()
            raise UserError(
                f"resume_from_checkpoint: {folder} "
                + (f"keeps its state in {_FORMER_STATE_FILE}, an older format" if former else "holds no training state")
                + f", so it cannot be resumed from; start over from its weights with vision_checkpoint={folder}"
            )
        state = load_tree(folder / STATE_FOLDER, STATE_FOLDER)
        try:
            saved = read_vision_checkpoint(folder / WEIGHTS_FILE)
        except UserError as error:
            raise UserError(f"resume_from_checkpoint: {error}") from error
        self.history.earlier = saved.history[:-1]
        if set(saved.tensors) != set(model.components):
            raise UserError(
                f"resume_from_checkpoint: {folder} holds {', '.join(saved.tensors)}, but this model has"
                f" {', '.join(model.components)}: resume with the same components"
            )
        for name, component in model.components.items():
            for key in component.fixed_arguments:
                before, now = saved.configs[name][key], component.config()[key]
                if before != now:
                    raise UserError(f"resume_from_checkpoint: {folder} has {name}.{key}={before}, this run {now}")
            try:
                component.load_state_dict(saved.tensors[name].read())
            except RuntimeError as error:
                reason = " ".join(line.strip() for line in str(error).splitlines()[:2])
                raise UserError(
                    f"resume_from_checkpoint: {name} of {folder} does not fit this model: {reason}"
                ) from error
        return state

    def _remove_old(self, newest: Path) -> list[str]:
        """Remove all but the newest complete folders; ``newest`` was just written and always stays."""
        if self.keep_last is None:
            return []
        others = [
            path
            for path in self.folder.glob("step_*")
            if path != newest and step_of(path) is not None and is_complete(path)
        ]
        # By time and not by step: after a resume from an early step, later ones are there from before.
        others.sort(key=lambda path: ((path / MARKER).stat().st_mtime_ns, step_of(path)))
        lines = []
        for path in others[: max(len(others) - (self.keep_last - 1), 0)]:
            try:
                remove_folder(path)
            except OSError as error:
                lines.append(f"an old checkpoint could not be removed ({describe_failure(error, path)})")
        return lines


def find_resume_folder(resume_from: bool | str | None, folder: Path) -> Path | None:
    """Return which checkpoint ``resume_from_checkpoint`` means.

    Args:
        resume_from: False or None; True or ``latest`` for the newest complete one (if there is none, the run starts
            fresh); or a step folder.
        folder: where this run's checkpoints are.

    Returns:
        The folder, None to start from the beginning.

    Raises:
        UserError: if a named folder is not a complete checkpoint.
    """
    if resume_from in (False, None):
        return None
    restore_interrupted(folder)
    if resume_from is True or resume_from == "latest":
        return latest_checkpoint(folder)
    named = Path(str(resume_from))
    if not is_complete(named):
        raise UserError(f"resume_from_checkpoint={named} is not a complete checkpoint folder (no {MARKER} in it)")
    return named


def check_writable(folder: Path, key: str = "output_dir") -> None:
    """Find out now, and not at the first save, whether files can be written to a folder.

    Args:
        folder: made if it is not there.
        key: key of the configuration, that names it.

    Raises:
        UserError: if it is read-only, full, or a file is in the way.
    """
    probe = folder / f".writable_{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            probe.write_bytes(b"\0" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise UserError(f"{key}={folder} cannot be a folder: a file is in the way; choose another") from error
    except OSError as error:
        raise UserError(f"{key}={folder} cannot be written to ({error.strerror}): fix it or choose another") from error


def random_state() -> dict[str, Any]:
    """Return the random generators of this process: Python's, NumPy's, torch's and the one of the GPU in use.

    Returns:
        Numbers, lists and text only: processes exchange it as JSON.
    """
    version, numbers, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    algorithm, keys, position, has_gauss, cached = numpy_state
    # Only where CUDA runs already: to ask would start it, which takes a second and GPU memory.
    uses_cuda = torch.cuda.is_available() and torch.cuda.is_initialized()
    return {
        "python": [version, list(numbers), gauss],
        "numpy": [algorithm, keys.tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state().tolist(),
        "cuda": torch.cuda.get_rng_state().tolist() if uses_cuda else None,
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put the random generators of this process back.

    Args:
        state: value of ``random_state``.
    """
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    algorithm, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((algorithm, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8))
