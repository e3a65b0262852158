"""What a data file is, before its rows are read: a file of text, and not one object over many lines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcap.data.json_text import JsonError, parse_json
from medcap.data.row_layouts import CONVERSATION_KEYS
from medcap.errors import UserError

BOM = b"\xef\xbb\xbf"
_LARGEST_OBJECT = 1 << 28  # bytes; a larger file is not looked at as a whole
_KINDS = (
    (b"PAR1", "a parquet file"),
    (b"\x1f\x8b", "a gzip file: unpack it"),
    (b"PK\x03\x04", "a zip file: unpack it"),
    (b"\xfd7zXZ", "an xz file: unpack it"),
    (b"\x28\xb5\x2f\xfd", "a zstd file: unpack it"),
    (b"SQLite format 3", "an SQLite database"),
)
# A file of one such object is one row.
_ROW_KEYS = ("image", "question", "prediction", "text")


def check_data_file(path: Path) -> None:
    """See that a path names a file.

    Raises:
        UserError: if not: it says whether nothing is there, or something else.
    """
    try:
        if path.is_file():
            return
        if path.is_dir():
            raise UserError(f"data file {path} is a folder: name a file in it")
        if path.exists():
            raise UserError(f"data file {path} is a device or a pipe: write its content to a file")
    except (OSError, ValueError) as error:
        raise UserError(f"data file {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    raise UserError(f"data file {path} does not exist")


def not_text(path: Path, reason: str) -> UserError:
    """Return the error for a file that is not UTF-8 text.

    Args:
        path: the file.
        reason: what the decoder said.
    """
    with path.open("rb") as file:
        head = file.read(16)
    kind = next((kind for start, kind in _KINDS if head.startswith(start)), None)
    return UserError(
        f"data file {path} is not UTF-8 text: {reason}; write it as UTF-8"
        if kind is None
        else f"data file {path} is not UTF-8 text but {kind}"
    )


def one_object(path: Path) -> tuple[int, int] | None:
    """Find the one object that a file may hold over several lines, as a pretty printer writes it.

    Args:
        path: a file of JSON that does not begin with ``[``.

    Returns:
        Its first byte and the byte after its last; None where the file is JSONL.

    Raises:
        UserError: if the object holds rows in a list instead of being a row, or objects of several lines follow one
            another.
    """
    with path.open("rb") as file:
        size = path.stat().st_size
        begin = len(BOM) if file.read(len(BOM)) == BOM else 0
        file.seek(begin)
        line = b""
        while not line.strip() and file.tell() < size:
            line = file.readline()
        several = bool(file.read(4096).strip())
        try:
            value = parse_json(line)
        except JsonError:
            if size > _LARGEST_OBJECT or not line.lstrip().startswith(b"{"):
                return None
            file.seek(begin)
            return _over_lines(path, file.read(), begin)
    if not several:
        _check_is_row(path, value)
    return None


def _over_lines(path: Path, content: bytes, begin: int) -> tuple[int, int] | None:
    blank = len(content) - len(content.lstrip())
    try:
        text = content[blank:].decode("utf-8")
        value, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return None  # A damaged row is reported when it is read.
    if "\n" not in text[:end].strip() and "\r" not in text[:end].strip():
        return None
    if text[end:].strip():
        raise UserError(
            f"data file {path} is neither an array nor JSONL: its objects go over several lines; write each on one"
            " line, or all of them as an array"
        )
    _check_is_row(path, value)
    return begin + blank, begin + blank + len(text[:end].encode())


def _check_is_row(path: Path, value: Any) -> None:
    if not isinstance(value, Mapping) or any(key in value for key in (*CONVERSATION_KEYS, "messages")):
        return
    if any(isinstance(value.get(key), str) for key in _ROW_KEYS):
        return
    lists = [key for key, held in value.items() if isinstance(held, list) and held and isinstance(held[0], Mapping)]
    if lists:
        raise UserError(
            f"data file {path} is one object and not an array of rows or JSONL: write the list under"
            f" {' or '.join(map(repr, lists))} as the file"
        )
