"""Names of files in folders, sorted, however many there are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from medcap.datasets.conversion.disk_table import DiskTable


def sorted_files(folder: str | Path, suffixes: tuple[str, ...], recursive: bool = False) -> Iterator[str]:
    """Find files by their suffix, whatever order the file system has them in.

    Args:
        folder: where to look.
        suffixes: in lower case; those of the files may be in either.
        recursive: look into folders too, but not through links to folders, which may lead in circles.

    Yields:
        Names relative to ``folder`` with ``/`` between their parts, by code point. Hidden ones are left out.
    """
    with DiskTable() as table:
        folders = [""]
        while folders:
            place = folders.pop()
            with os.scandir(os.path.join(folder, place)) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = f"{place}/{entry.name}" if place else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        folders += [name] * recursive
                    elif entry.name.lower().endswith(suffixes):
                        table.add(name)
        yield from table.sorted_keys()
