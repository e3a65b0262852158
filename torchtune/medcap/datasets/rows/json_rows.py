"""Rows of JSON and JSONL files, with the place of every mistake."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from medcap.data.json_text import JsonError, parse_json
from medcap.datasets.rows.data_files import check_data_file, not_text, one_object
from medcap.errors import UserError


def read_rows(source: str | Path) -> Iterator[tuple[int, Any]]:
    """Read a JSON array, a single JSON object (over one line or many), or JSONL; distinguished by the content.

    Args:
        source: the file, UTF-8.

    Yields:
        Row number from 0 and the decoded value.

    Raises:
        UserError: if the file is missing, empty or not JSON; the message has the line.
    """
    path = Path(source)
    check_data_file(path)
    try:
        with path.open(encoding="utf-8-sig") as file:
            start = file.read(4096).lstrip()
            file.seek(0)
            if not start:
                raise UserError(f"data file {path} is empty")
            if start.startswith("["):
                yield from enumerate(_load(file.read(), path))
            elif one_object(path) is not None:
                yield 0, _load(file.read(), path)
            else:
                yield from _load_lines(file, path, start)
    except UnicodeDecodeError as error:
        raise not_text(path, f"{error.reason} at byte {error.start}") from error
    except OSError as error:
        raise UserError(f"data file {path} cannot be read: {error.strerror}") from error


def _load(text: str, path: Path) -> Any:
    try:
        return parse_json(text)
    except JsonError as error:
        raise _not_json(f"{path}, line {error.line}" if error.line is not None else str(path), error, text) from error


def _load_lines(file: TextIO, path: Path, start: str) -> Iterator[tuple[int, Any]]:
    row = 0
    for number, line in enumerate(file, start=1):
        if not line.strip():
            continue
        try:
            value = parse_json(line)
        except JsonError as error:
            raise _not_json(f"{path}, line {number}", error, line if row == 0 else "{") from error
        yield row, value
        row += 1


def _not_json(location: str, error: JsonError, start: str) -> UserError:
    if error.line is None:  # The problem has nothing to do with the end of the file.
        return UserError(f"{location}: not valid JSON ({error.reason})")
    if start.lstrip()[:1] not in ("{", "["):
        return UserError(f"{location}: not valid JSON ({error.reason}): the file must be JSON or JSONL")
    return UserError(f"{location}: not valid JSON ({error.reason}); is the file cut off?")
