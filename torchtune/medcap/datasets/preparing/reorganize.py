"""Copies files to the places that a CSV file says, and lists what is missing.

ColonINST's images come from other data sets and are renamed; its authors' ``data_reorganize.py`` (IntelliScope) does so
by a CSV file with the columns ``original`` and ``target``, paths relative to a folder each.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from medcap.datasets.published.reading import Tally, csv_records, progress
from medcap.errors import UserError
from medcap.files import atomic_file

COLUMNS = ("original", "target")
MISSING, OTHER, OUTSIDE = "missing", "another file is there", "leads out of its folder"


@dataclass
class Reorganized:
    """What became of the lines of a CSV file.

    Attributes:
        copied: files that were copied.
        same: targets that were there already with the same content.
        left: for each reason, what was not copied: the original that is missing, the target that is another file, or
            the path that leads out of its folder.
    """

    copied: int = 0
    same: int = 0
    left: dict[str, list[str]] = field(default_factory=dict)

    def leave(self, reason: str, name: str) -> None:
        """Note what is not copied."""
        self.left.setdefault(reason, []).append(name)


def reorganize(path: Path, originals: Path, targets: Path, overwrite: bool = False) -> Reorganized:
    """Copy each original to its target.

    A target that is another file stays unless it may be overwritten. A copy gets its name when it is whole.

    Args:
        path: the CSV file.
        originals: folder of the paths in ``original``.
        targets: folder of the paths in ``target``; it is made.
        overwrite: replace targets that are other files.

    Returns:
        What was copied, and what was not.

    Raises:
        UserError: if the file cannot be read or lacks a column, ``originals`` is no folder, or writing fails.
    """
    if not originals.is_dir():
        raise UserError(f"{originals} is not a folder of originals")
    result, tally = Reorganized(), Tally()
    for _, row in progress(csv_records(path, COLUMNS, tally), path.name, "file"):
        original, target = (_inside(folder, row[key]) for folder, key in ((originals, "original"), (targets, "target")))
        if original is None or target is None:
            result.leave(OUTSIDE, row["original" if original is None else "target"])
        elif not original.is_file():
            result.leave(MISSING, row["original"])
        elif target.is_file() and filecmp.cmp(original, target, shallow=False):
            result.same += 1
        elif os.path.lexists(target) and not (overwrite and target.is_file()):
            result.leave(OTHER, row["target"])
        else:
            _copy(original, target)
            result.copied += 1
    for reason, location in tally.first.items():
        result.leave(reason, location)
    return result


def _inside(folder: Path, name: str) -> Path | None:
    """Return a path in a folder, links followed; None if it leads out. Windows' separators are read, too."""
    relative = PurePosixPath(name.strip().replace("\\", "/"))
    if not name.strip() or "\0" in name or relative.is_absolute():
        return None
    path = folder / relative
    return path if path.resolve().is_relative_to(folder.resolve()) else None


def _copy(original: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(target) as temporary:
            shutil.copyfile(original, temporary)
    except OSError as error:
        raise UserError(f"{error.filename or target} cannot be read or written: {error.strerror}") from error
