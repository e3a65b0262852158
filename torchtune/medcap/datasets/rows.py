"""Rows of JSON and JSONL files, with the place of every mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from medcap.errors import UserError


def read_rows(source: str | Path) -> Iterator[tuple[int, Any]]:
    """Read a JSON array, a single JSON object (over one line or many), or JSONL; told apart by the content.

    Args:
        source: the file, UTF-8.

    Yields:
        Row number from 0 and the decoded value.

    Raises:
        UserError: if the file is missing, empty or not JSON; the message has the line.
    """
    path = Path(source)
    if not path.is_file():
        raise UserError(f"data file {path} does not exist")
    try:
        with path.open(encoding="utf-8-sig") as file:
            start = file.read(4096).lstrip()
            file.seek(0)
            if not start:
                raise UserError(f"data file {path} is empty")
            if start.startswith("["):
                yield from enumerate(_load_array(file.read(), path))
            else:
                yield from _load_lines(file, path, start)
    except UnicodeDecodeError as error:
        raise UserError(f"data file {path} is not UTF-8 text: {error}") from error


def _load_array(text: str, path: Path) -> list[Any]:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{path}, line {error.lineno}: not valid JSON ({error.msg}); is the file cut off?") from error


def _load_lines(file: TextIO, path: Path, start: str) -> Iterator[tuple[int, Any]]:
    row = 0
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except json.JSONDecodeError as error:
            if row == 0 and start.startswith("{"):
                whole = _load_object(file)
                if whole is not None:
                    yield 0, whole
                    return
            raise UserError(f"{path}, line {number}: not valid JSON ({error.msg}); is the file cut off?") from error
        yield row, value
        row += 1


def _load_object(file: TextIO) -> dict[str, Any] | None:
    """The one object that a whole file is; None where it is anything else."""
    file.seek(0)
    try:
        value = json.loads(file.read())
    except json.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None
