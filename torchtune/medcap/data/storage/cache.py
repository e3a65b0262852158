"""What can be computed again from a data file, kept between runs: arrays that open without being read.

An entry is a folder of ``.npy`` files and ``entry.json``. It is complete or invisible, even if others write at the same
time, and a damaged one is as good as none: a cache may cost time, never a run.
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import tempfile
import threading
import time
import uuid
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medcap.data.json_text import parse_json

_NOTES = "entry.json"
_STALE_SECONDS = 24 * 3600
# NumPy parses a file's header with ast, which fails in Python 3.11 when two threads do it at once: "AST constructor
# recursion depth mismatch" (https://github.com/python/cpython/issues/106905).
_HEADER_LOCK = threading.Lock()


@dataclass(frozen=True)
class Entry:
    """What was stored under a name.

    Attributes:
        arrays: memory-mapped and read-only.
        notes: JSON values.
    """

    arrays: dict[str, np.ndarray]
    notes: dict[str, Any]


def cache_folder() -> Path:
    """Return the folder for entries.

    Returns:
        ``$MEDCAP_CACHE``, else ``$XDG_CACHE_HOME/medcap``, else ``~/.cache/medcap``; where that cannot be made or
        written, a folder of the user's in the system's temporary folder.
    """
    wanted = _wanted_folder()
    if wanted is not None:
        try:
            wanted.mkdir(parents=True, exist_ok=True)
            if os.access(wanted, os.W_OK | os.X_OK):
                return wanted
        except OSError:
            pass
    return _temporary_folder()


def load_entry(folder: Path) -> Entry | None:
    """Open an entry.

    Args:
        folder: its name, as given to ``store_entry``.

    Returns:
        The entry, or None if there is none or it is damaged.
    """
    try:
        stored = parse_json((folder / _NOTES).read_text(encoding="utf-8"))
        arrays = {name: _load_array(folder / f"{name}.npy", checksum) for name, checksum in stored["arrays"].items()}
        return Entry(arrays, dict(stored["notes"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def store_entry(folder: Path, arrays: Mapping[str, np.ndarray], notes: Mapping[str, Any]) -> Entry:
    """Write an entry and open it.

    Several processes, on several machines, may store one name at the same time if they store the same thing.

    Args:
        folder: its name. What is there stays if it is good.
        arrays: arrays of any shape; no object arrays.
        notes: JSON values.

    Returns:
        The entry; its arrays are those given if nothing can be written there.
    """
    partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
    try:
        _remove_stale(folder.parent)
        partial.mkdir(parents=True)
        checksums = {}
        for name, array in arrays.items():
            with (partial / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            checksums[name] = _checksum(partial / f"{name}.npy")
        with (partial / _NOTES).open("w", encoding="utf-8") as file:
            json.dump({"arrays": checksums, "notes": dict(notes)}, file)
            file.flush()
            os.fsync(file.fileno())
        entry = _publish(partial, folder)
    except OSError:
        entry = None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return entry or Entry(dict(arrays), dict(notes))


def keep_arrays(folder: Path | None, make: Callable[[], Mapping[str, np.ndarray]]) -> Mapping[str, np.ndarray]:
    """Return the arrays of an entry, made and stored if there is no good one.

    Args:
        folder: its name; None keeps nothing.
        make: the arrays.

    Returns:
        The arrays.
    """
    if folder is None:
        return make()
    entry = load_entry(folder) or store_entry(folder, make(), {})
    return entry.arrays


def _publish(partial: Path, folder: Path) -> Entry | None:
    try:
        os.rename(partial, folder)
    except OSError:
        entry = load_entry(folder)
        if entry is not None:  # another process was faster
            return entry
        # A folder cannot be replaced in one step: a damaged entry is moved away under a unique name, so that of two
        # processes that replace it neither removes what the other has just put there.
        damaged = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")
        os.rename(folder, damaged)
        shutil.rmtree(damaged, ignore_errors=True)
        os.rename(partial, folder)
    return load_entry(folder)


def _load_array(path: Path, checksum: int) -> np.ndarray:
    # Read the file instead of the mapping: mapped pages that are read would count as this process's memory.
    if _checksum(path) != checksum:
        raise ValueError(f"{path} is damaged")
    with _HEADER_LOCK:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))


def _checksum(path: Path) -> int:
    checksum = 0
    with path.open("rb", buffering=0) as file:
        while block := file.read(1 << 20):
            checksum = zlib.crc32(block, checksum)
    return checksum


def _remove_stale(parent: Path) -> None:
    """Remove what writers that were killed have left."""
    for folder in parent.glob(".*"):
        try:
            if time.time() - folder.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue


def _wanted_folder() -> Path | None:
    if chosen := os.environ.get("MEDCAP_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME") or "")
    if base.is_absolute():  # the XDG rules: a relative one is to be ignored
        return base / "medcap"
    try:
        return Path.home() / ".cache" / "medcap"
    except RuntimeError:  # no home folder can be found
        return None


def _temporary_folder() -> Path:
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir(), f"medcap-{user}")
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        # Everybody can make a folder of this name there; one of another user's is not to be believed.
        if stat.S_ISDIR(found.st_mode) and found.st_uid == user and not found.st_mode & 0o022:
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="medcap-"))
