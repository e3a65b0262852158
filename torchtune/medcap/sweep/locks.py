"""Locks that the operating system drops when the last process that holds them is gone, however it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO


def hold(path: Path, wait: bool = False) -> TextIO | None:
    """Take a lock.

    It belongs to the open file: a child that inherits the descriptor holds it too.

    Args:
        path: of the lock's file, made if it is not there.
        wait: until it is free, instead of giving up.

    Returns:
        The open file, whose closing gives the lock back; None if somebody else has it. Where the system or the file
        system knows no such locks, the file without a lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    with contextlib.suppress(ImportError):
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            file.close()
            return None
        except OSError:
            pass
    return file


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for a lock and hold it for the block."""
    with hold(path, wait=True):
        yield


def is_held(path: Path) -> bool | None:
    """Whether a process holds a lock; None if that cannot be told: no file, or no such locks here."""
    try:
        import fcntl

        with path.open("a" if path.exists() else "r") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return None
    return False
