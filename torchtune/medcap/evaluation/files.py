"""Result files: complete or not there, and JSON that every reader accepts."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcap.errors import UserError


def make_folder(folder: Path) -> Path:
    """Create a result folder.

    Raises:
        UserError: if it cannot be created.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir: the folder {folder} cannot be created: {error.strerror}") from error
    return folder


def write_text(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Write a file under a temporary name and rename it, so that a reader never sees half of it.

    Args:
        path: the file; an old one is replaced.
        text: its content; a character that cannot be encoded becomes a question mark.
        encoding: ``utf-8``, or ``utf-8-sig`` for a byte order mark.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding=encoding, errors="replace", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write JSON; a number that JSON does not have (NaN, infinity) becomes null."""
    write_text(path, json.dumps(plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def plain(value: Any) -> Any:
    """The same value in the types of JSON: NaN and infinity as None, paths and other objects as text."""
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
