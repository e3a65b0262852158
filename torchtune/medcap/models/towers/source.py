"""What a tower's name resolves to: an architecture, its preprocessing and, unless it starts random, its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcap.errors import UserError
from medcap.instantiate import unknown_key
from medcap.models.preprocess import Preprocess
from medcap.models.towers.tensor_files import TensorFiles

# The fields of ``Preprocess`` that an encoder learnt with.
FIELDS = ("image_size", "mean", "std", "interpolation", "resize_mode")


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


@dataclass(frozen=True)
class KnownPreprocess:
    """What is known of a tower's preprocessing beside its files. It is never guessed.

    Attributes:
        given: fields of ``Preprocess`` from the configuration; they come before those of the files.
        usual: preprocessing of a tower that medcap has by name, for a folder that lacks the file.
        has_keys: whether the configuration could give it, for messages.
    """

    given: Mapping[str, Any] = field(default_factory=dict)
    usual: Preprocess | None = None
    has_keys: bool = False

    def complete(
        self, read: Preprocess | None, image_size: int | None, location: Path | str, missing: str
    ) -> Preprocess:
        """Return the preprocessing.

        Args:
            read: preprocessing that the files describe; None if they describe none.
            image_size: the only size of images that the tower takes, in pixels; None if it takes any.
            location: folder or name of the tower, for messages.
            missing: file, or keys of a file, that would describe it, for messages.

        Raises:
            UserError: if something is not known, or is another size than the tower's.
        """
        found = read or self.usual
        values: dict[str, Any] = {} if found is None else found.to_dict()
        if image_size is not None:
            values.setdefault("image_size", image_size)
        values |= self.given
        lacking = [name for name in FIELDS if name not in values]
        unknown = [name for name in self.given if name not in FIELDS]
        if unknown:
            raise UserError(f"{unknown_key(unknown[0], FIELDS, 'vision.preprocess.')}; it takes {', '.join(FIELDS)}")
        if found is None and lacking:
            keys = f", or give {', '.join(f'vision.preprocess.{name}' for name in lacking)}" if self.has_keys else ""
            raise UserError(f"{location} does not say how images become this encoder's input: bring {missing}{keys}")
        try:
            preprocess = Preprocess.from_dict(values)
        except UserError as error:
            raise UserError(f"vision.{error}" if self.given else f"{location}: {error}") from error
        if image_size is not None and preprocess.image_size != image_size:
            raise UserError(
                f"vision.preprocess.image_size={preprocess.image_size}: this encoder takes images of {image_size} x"
                f" {image_size} pixels only"
            )
        return preprocess


ONLY_FILES = KnownPreprocess()


def note_pickle(path: Path) -> list[str]:
    """Return the notice for weights that come as a pickle, none for safetensors."""
    if path.suffix == ".safetensors" or path.name.endswith(".index.json"):
        return []
    return [f"{path} is a pickle, read by torch's weights-only loader: no safetensors file lies beside it"]


def first_file(folder: Path, names: tuple[str, ...]) -> Path | None:
    """Return the first of these files that is in the folder."""
    return next((folder / name for name in names if (folder / name).is_file()), None)
