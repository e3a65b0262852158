"""Result files: complete or not there, and JSON that every reader accepts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcap.checkpoints.atomic import atomic_file
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
    """Write a text file atomically.

    Args:
        path: the file; an old one is replaced.
        text: its content; a character that cannot be encoded becomes a question mark.
        encoding: ``utf-8``, or ``utf-8-sig`` for a byte order mark.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(text.encode(encoding, errors="replace"))


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
