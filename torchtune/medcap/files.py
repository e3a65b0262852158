"""Write files that are complete or not there: temporary name, fsync, rename; JSON that every reader accepts."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

from medcap.errors import UserError


def make_folder(folder: Path, key: str = "output_dir") -> Path:
    """Create a result folder.

    Args:
        folder: the folder.
        key: key or option that names it, for the message.

    Raises:
        UserError: if it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: the folder {folder} cannot be created: {error.strerror}") from error
    return folder


def keep_inputs(option: str, written: Path, *inputs: Path, use: str = "read") -> None:
    """Refuse to write a file in the place of one that the same command reads.

    Args:
        option: option that names the file to write.
        written: the file to write.
        inputs: the files that are read.
        use: what is done with them, for the message.

    Raises:
        UserError: if it is one of them, links followed.
    """
    if written.resolve() in [path.resolve() for path in inputs]:
        raise UserError(f"{option} {written} would replace the file that is {use}: name another one")


@contextlib.contextmanager
def atomic_file(path: Path) -> Generator[Path]:
    """Write a file so that its name only ever means a whole one. One writer a path.

    Args:
        path: the final name; its folder is made if it is not there.

    Yields:
        A temporary path in the same folder to write to. It becomes ``path`` when the block ends, and is removed when
        the block raises; a file that was at ``path`` stays until then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        temporary.touch()
        mode = temporary.stat().st_mode
        yield temporary
        # safetensors puts a file in its place that only its owner may read, whatever the umask allows.
        temporary.chmod(mode)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Write a text file atomically.

    Args:
        path: the file; an old one is replaced.
        text: its content; a character that cannot be encoded becomes a question mark.
        encoding: ``utf-8``, or ``utf-8-sig`` for a byte order mark.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode(encoding, errors="replace"))


def write_json(path: Path, value: Any) -> None:
    """Write an indented JSON file atomically.

    Args:
        path: the file; an old one is replaced.
        value: value of JSON types; ``plain`` converts others.

    Raises:
        ValueError: for NaN or infinity, which JSON does not have.
    """
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """Return the same value in the types of JSON: NaN and infinity as None, paths and other objects as text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if hasattr(value, "item"):
        return plain(value.item())
    return str(value)


def temporary_name(path: Path) -> Path:
    """Name what is not complete yet; it lies beside its final name."""
    return path.with_name(f".{path.name}.partial")


def sync(path: Path) -> None:
    """Bring a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        if not path.is_dir():  # some file systems cannot fsync a folder
            raise
    finally:
        os.close(descriptor)
