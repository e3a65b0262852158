"""Find a published data set: the names of its folders and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

HUB = "hub"


@dataclass(frozen=True)
class Layout:
    """The file names of one split of a data set.

    Attributes:
        folders: folders of the data set, in the folder of all downloads.
        kinds: kind of file -> patterns relative to the data set's folder; ``HUB`` means parquet files of the hub.
        images: folders of images, relative to the data set's folder.
    """

    folders: tuple[str, ...]
    kinds: dict[str, tuple[str, ...]]
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Found:
    """The files of a data set.

    Attributes:
        folder: the data set's own; the names in the files are relative to it.
        kind: kind of the files, a key of what was searched for.
        files: at least one, sorted by name.
        named: whether the user named a single file, which may be a part of the data set.
    """

    folder: Path
    kind: str
    files: list[Path]
    named: bool = False

    @property
    def source(self) -> Path:
        """Return how messages call the data set: by the file if there is one, else by the folder."""
        return self.files[0] if len(self.files) == 1 else self.folder


def hub_files(split: str) -> tuple[str, ...]:
    """Patterns of a split's parquet files: as `hf download` leaves them, their folder, and the hub's own conversion."""
    return (f"data/{split}-*.parquet", f"{split}-*.parquet", f"default/{split}/*.parquet", f"{split}.parquet")


def find_files(root: Path, folders: Sequence[str], kinds: Mapping[str, Sequence[str]]) -> Found | None:
    """Find a data set's files.

    Args:
        root: the folder of all downloads.
        folders: names in it, in the order in which they are looked into; "" is ``root`` itself.
        kinds: see :class:`Layout`; the first pattern that matches is taken.

    Returns:
        The files, None if there are none.
    """
    for folder in folders:
        for kind, patterns in kinds.items():
            for pattern in patterns:
                # An archive packed on a Mac brings a hidden `._name.json` beside each `name.json`.
                locations = (root / folder).glob(pattern)
                files = sorted(path for path in locations if path.is_file() and path.name[0] != ".")
                if files:
                    return Found(root / folder, kind, files)
    return None
