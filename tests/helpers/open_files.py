"""Which files of a folder this process has open, whatever else other threads open and close meanwhile."""

import os
from pathlib import Path

import pytest

_DESCRIPTORS = Path("/proc/self/fd")


def open_files_below(folder: Path) -> list[str]:
    """Return the paths below the folder that this process has open, one for each descriptor."""
    if not _DESCRIPTORS.is_dir():
        pytest.skip("this system does not list the open files of a process")
    found = []
    for descriptor in _DESCRIPTORS.iterdir():
        try:
            found.append(os.readlink(descriptor))
        except FileNotFoundError:  # closed since it was listed
            continue
    return [path for path in found if Path(path).is_relative_to(folder)]
