"""Records of source files one at a time: a damaged one is counted, and memory does not grow with the file."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from medcap.datasets.conversion.example import Tally
from medcap.datasets.csv_fields import allow_long_fields
from medcap.errors import UserError

Value = TypeVar("Value")
_STEP = 256  # records between looks at the place in a text file
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif")


def json_records(path: Path, tally: Tally) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The objects of a JSON array or of JSONL; told apart by the content.

    Args:
        path: the file, UTF-8.
        tally: counts damaged lines of JSONL and rows that are no objects.

    Yields:
        The row's place in words and the object.

    Raises:
        UserError: if the file cannot be read, is empty, or is an array that is not valid JSON.
    """
    from medcap.datasets.row_spans import stream_rows

    for index, text in enumerate(stream_rows(path)):
        place = f"{path}, row {index}"
        tally.read += 1
        try:
            value = json.loads(text.decode("utf-8"))
        except (ValueError, RecursionError):
            tally.skip("not valid JSON", place)
            continue
        if isinstance(value, Mapping):
            yield place, value
        else:
            tally.skip("the row is no object", place)


def csv_records(
    path: Path, columns: Sequence[str], tally: Tally, delimiter: str = ","
) -> Iterator[tuple[str, dict[str, str]]]:
    """The rows of a CSV file with a heading, every field as the text that it is.

    Args:
        path: the file, UTF-8.
        columns: what the heading must have.
        tally: counts rows that have more or fewer fields than the heading.
        delimiter: between fields.

    Yields:
        The row's place in words and its fields.

    Raises:
        UserError: if the file cannot be read or lacks a column.
    """
    allow_long_fields()
    heading = csv_heading(path, columns, delimiter)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file, _byte_progress(path) as bar:
            reader = csv.reader(file, delimiter=delimiter)
            next(reader)
            while True:
                try:
                    fields = next(reader)
                except StopIteration:
                    break
                except csv.Error:
                    tally.read += 1
                    tally.skip("not a readable line of CSV", f"{path}, line {reader.line_num}")
                    continue
                if not fields:
                    continue
                tally.read += 1
                if tally.read % _STEP == 0:
                    bar.update(file.buffer.tell() - bar.n)
                if len(fields) != len(heading):
                    tally.skip("not as many fields as the heading", f"{path}, line {reader.line_num}")
                else:
                    yield f"{path}, line {reader.line_num}", dict(zip(heading, fields, strict=True))
    except UnicodeDecodeError as error:
        raise _not_text(path, error) from error
    except OSError as error:
        raise UserError(f"data file {path} cannot be read: {error.strerror}") from error


def csv_heading(path: Path, columns: Sequence[str], delimiter: str = ",") -> list[str]:
    """The names of a CSV file's columns.

    Raises:
        UserError: if the file cannot be read or lacks one of ``columns``.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            heading = next(csv.reader(file, delimiter=delimiter), [])
    except UnicodeDecodeError as error:
        raise _not_text(path, error) from error
    except csv.Error as error:
        raise UserError(f"{path} is not a readable CSV file ({error})") from error
    except OSError as error:
        raise UserError(f"data file {path} cannot be read: {error.strerror}") from error
    for column in columns:
        if column not in heading:
            raise UserError(f"{path} has no column '{column}' (it has: {', '.join(heading) or 'nothing'})")
    return heading


def bar_records(path: Path, count: int, tally: Tally) -> Iterator[tuple[str, list[str]]]:
    """The lines of a text file whose fields stand between ``|``.

    Args:
        path: the file, UTF-8, or the Windows code page where a line is not UTF-8.
        count: number of fields; the last one takes what is left.
        tally: counts lines with fewer fields.

    Yields:
        The line's place in words and its fields, stripped.

    Raises:
        UserError: if the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(progress(file, path.name, "line"), start=1):
                text = _decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
                if not text:
                    continue
                tally.read += 1
                fields = [field.strip() for field in text.split("|", count - 1)]
                if len(fields) == count:
                    yield f"{path}, line {number}", fields
                else:
                    tally.skip(f"not {count} fields between |", f"{path}, line {number}")
    except OSError as error:
        raise UserError(f"data file {path} cannot be read: {error.strerror}") from error


def parquet_records(
    paths: Sequence[Path], columns: Sequence[str], tally: Tally
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The rows of parquet files, one file after the other.

    Raises:
        UserError: if a file is damaged or lacks one of ``columns``.
    """
    from medcap.datasets.parquet_rows import read_parquet

    for path in paths:
        for index, row in enumerate(progress(read_parquet(path, columns), path.name, "row")):
            tally.read += 1
            yield f"{path}, row {index}", row


def _not_text(path: Path, error: UnicodeDecodeError) -> UserError:
    return UserError(f"{path} is not UTF-8 text ({error.reason}): write it as UTF-8")


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace")


def progress(items: Iterable[Value], name: str, unit: str) -> Iterable[Value]:
    """Go through ``items`` behind a bar, on a terminal.

    Args:
        items: of any number.
        name: what they are of.
        unit: what one is.
    """
    from tqdm import tqdm

    return tqdm(items, desc=name, unit=unit, delay=2, mininterval=1, disable=None)


def _byte_progress(path: Path) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=os.path.getsize(path),
        desc=path.name,
        unit="B",
        unit_scale=True,
        delay=2,
        mininterval=1,
        disable=None,
    )
