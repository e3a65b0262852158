"""Names of files in folders, sorted, however many there are."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from medcap.data.images.suffixes import is_image_file
from medcap.datasets.conversion.disk_table import DiskTable


def sorted_files(folder: str | Path, suffixes: tuple[str, ...], recursive: bool = False) -> Iterator[str]:
    """Find files by their suffix, whatever order the file system has them in.

    Args:
        folder: where to look.
        suffixes: suffixes in lower case; the files may have either case.
        recursive: look into folders too, but not through links to folders, which may lead in circles.

    Yields:
        Names relative to ``folder`` with ``/`` between their parts, by code point. Hidden ones are left out.
    """
    return _sorted(folder, lambda path: path.lower().endswith(suffixes), recursive)


def sorted_images(folder: str | Path, leave_out: Callable[[str], None] = lambda name: None) -> Iterator[str]:
    """Find the images in a folder and all folders in it, as :func:`sorted_files` finds files.

    Args:
        folder: where to look.
        leave_out: called with the name of every other file, in any order; not for hidden files.

    Yields:
        Names as those of :func:`sorted_files`.
    """

    def keep(path: str) -> bool:
        found = is_image_file(path)
        if not found:
            leave_out(os.path.relpath(path, folder))
        return found

    return _sorted(folder, keep, recursive=True)


def _sorted(folder: str | Path, keep: Callable[[str], bool], recursive: bool) -> Iterator[str]:
    with DiskTable() as table:
        folders = [""]
        while folders:
            location = folders.pop()
            with os.scandir(os.path.join(folder, location)) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    name = f"{location}/{entry.name}" if location else entry.name
                    if entry.is_dir(follow_symlinks=False):
                        folders += [name] * recursive
                    elif keep(entry.path):
                        table.add(name)
        yield from table.sorted_keys()
