"""Write folders that are complete or not there: a temporary name, a marker written last, then the rename."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Generator
from pathlib import Path

from medcap.files import sync, temporary_name, write_text

MARKER = "COMPLETE"
LATEST = "latest"
_STEP_FOLDER = re.compile(r"step_(\d+)")


def begin_folder(path: Path) -> Path:
    """Start a folder that several processes may fill; exactly one of them calls this and ``finish_folder``.

    Args:
        path: the final name.

    Returns:
        An empty temporary folder next to it; the remains of an interrupted earlier attempt are removed.
    """
    temporary = temporary_name(path)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    return temporary


def finish_folder(path: Path, marked: bool = True) -> None:
    """Bring everything in the temporary folder to disk, mark it complete and give it its name.

    Args:
        path: path as given to ``begin_folder``; a folder that was there before is replaced.
        marked: whether the marker goes into it; a folder in another project's format has no place for it.
    """
    temporary = temporary_name(path)
    for folder, _, files in os.walk(temporary):
        for name in files:
            sync(Path(folder) / name)
        sync(Path(folder))
    if marked:
        (temporary / MARKER).touch()
        sync(temporary / MARKER)
        sync(temporary)
    outdated = _outdated(path)
    shutil.rmtree(outdated, ignore_errors=True)
    if path.exists():
        os.rename(path, outdated)
    os.rename(temporary, path)
    sync(path.parent)
    shutil.rmtree(outdated, ignore_errors=True)


@contextlib.contextmanager
def atomic_folder(path: Path, marked: bool = True) -> Generator[Path]:
    """Write a folder so that its name only ever means a whole one, with the marker in it.

    Args:
        path: the final name.
        marked: marked as for ``finish_folder``.

    Yields:
        A temporary folder to fill. When the block raises it is removed and ``path`` stays as it was.
    """
    temporary = begin_folder(path)
    try:
        yield temporary
        finish_folder(path, marked)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_folder(path: Path) -> None:
    """Remove a folder (or a file) so that its name never means half of one, even if the process is killed meanwhile.

    Args:
        path: what ``restore_interrupted`` and ``begin_folder`` know as a leftover is removed in place.
    """
    if path.is_dir() and not path.is_symlink():
        doomed = path
        if not path.name.startswith("."):
            doomed = temporary_name(path)
            shutil.rmtree(doomed, ignore_errors=True)
            os.rename(path, doomed)
        shutil.rmtree(doomed)
    else:
        path.unlink(missing_ok=True)


def restore_interrupted(folder: Path) -> None:
    """Give complete step folders their names back that a process was replacing when it was killed.

    Args:
        folder: holds step folders. Several processes may do this at once.
    """
    for outdated in folder.glob(".step_*.outdated"):
        path = outdated.with_name(outdated.name[1:].removesuffix(".outdated"))
        if path.exists() or not is_complete(outdated):
            shutil.rmtree(outdated, ignore_errors=True)
            continue
        with contextlib.suppress(FileNotFoundError):
            os.rename(outdated, path)


def is_complete(folder: Path) -> bool:
    """Return whether the marker is there."""
    return (folder / MARKER).is_file()


def step_folder(folder: Path, step: int) -> Path:
    """Name of a training step's folder, such as ``step_000120``."""
    return folder / f"step_{step:06d}"


def step_of(folder: Path) -> int | None:
    """Return the step that a folder's name gives, None for other names."""
    match = _STEP_FOLDER.fullmatch(folder.name)
    return int(match[1]) if match else None


def point_latest(folder: Path) -> None:
    """Make ``latest``, next to a complete step folder, point to it.

    It is a relative symbolic link, or a text file with the folder's name where the file system has no links.
    """
    latest = folder.parent / LATEST
    temporary = temporary_name(latest)
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(folder.name, target_is_directory=True)
    except OSError:
        write_text(latest, folder.name + "\n")
        return
    os.replace(temporary, latest)
    sync(latest.parent)


def latest_checkpoint(folder: Path) -> Path | None:
    """Return the newest complete step folder.

    Args:
        folder: one that holds step folders, or a run's folder with ``checkpoint`` in it.

    Returns:
        What ``latest`` points to if that is complete, else the complete folder with the highest step, else None.
    """
    if (folder / "checkpoint").is_dir():
        folder = folder / "checkpoint"
    latest = folder / LATEST
    if latest.is_dir():
        target = latest.resolve()
    else:
        try:
            target = folder / Path(latest.read_text(encoding="utf-8").strip()).name
        except (OSError, ValueError):
            target = latest
    if target != folder and is_complete(target):
        return target
    steps = [path for path in folder.glob("step_*") if step_of(path) is not None and is_complete(path)]
    return max(steps, key=lambda path: step_of(path) or 0, default=None)


def _outdated(path: Path) -> Path:
    return path.with_name(f".{path.name}.outdated")
