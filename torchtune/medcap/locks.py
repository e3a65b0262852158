"""Locks on open files. The operating system releases them when their holder ends, however it ends."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import IO, Any, TextIO


def lock_file(file: IO[Any] | int, wait: bool = False, with_children: bool = True) -> bool | None:
    """Lock an open file.

    filelock drops a lock in the children of its holder. A sweep's trial must hold the lock of the process that started
    it, so the system's own calls are used here.

    Args:
        file: an open file or its descriptor; closing it gives the lock back.
        wait: until the lock is free, instead of giving up.
        with_children: whether a child that inherits the descriptor holds the lock too. If not, the lock is released
            with this process, even while its children live on.

    Returns:
        False if another process has the lock; None where the system or the file system has no such locks.
    """
    try:
        import fcntl
    except ImportError:
        return None
    lock = fcntl.flock if with_children else fcntl.lockf
    try:
        lock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def hold(path: Path, wait: bool = False) -> TextIO | None:
    """Take a lock on a file of its own.

    Args:
        path: path of the lock's file, made if it is not there.
        wait: until it is free, instead of giving up.

    Returns:
        The open file, whose closing gives the lock back; None if another process has it. Where there are no such
        locks, the file without one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a")
    if lock_file(file, wait) is False:
        file.close()
        return None
    return file


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Wait for a lock on a file of its own and hold it for the block."""
    with contextlib.ExitStack() as stack:
        file = hold(path, wait=True)
        if file is not None:
            stack.enter_context(file)
        yield


def is_held(path: Path) -> bool | None:
    """Return whether a process holds a lock; None if there is no such file, or no such locks here."""
    try:
        with path.open("a" if path.exists() else "r") as file:
            free = lock_file(file)
            return None if free is None else not free
    except OSError:
        return None
