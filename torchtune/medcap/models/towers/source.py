"""What a tower's name resolves to: an architecture, its preprocessing and, unless it starts random, its weights."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcap.models.towers.base import Preprocess
from medcap.models.towers.tensor_files import TensorFiles


@dataclass
class TowerSource:
    """A tower that is described but not built.

    Attributes:
        spec: spec as ``Tower.spec``.
        preprocess: preprocess as ``Tower.preprocess``.
        weights: weights under the names of the tower's ``state_dict``; None for random initial weights.
        location: file or folder of the weights, for messages.
        notices: lines that the user should see.
    """

    spec: dict[str, Any]
    preprocess: Preprocess
    weights: TensorFiles | None = None
    location: Path | None = None
    notices: list[str] = field(default_factory=list)


def note_pickle(path: Path) -> list[str]:
    """Return the notice for weights that come as a pickle, none for safetensors."""
    if path.suffix == ".safetensors" or path.name.endswith(".index.json"):
        return []
    return [f"{path} is a pickle, read by torch's weights-only loader: no safetensors file lies beside it"]


def first_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first of these files that is in the folder."""
    return next((folder / name for name in names if (folder / name).is_file()), None)
