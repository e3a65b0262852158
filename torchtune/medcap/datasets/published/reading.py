"""Records of source files one at a time: a damaged one is counted or stops the reader; no file is held whole."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from medcap.data.json_text import JsonError, parse_json
from medcap.datasets.rows.delimited import MAX_FIELD, read_heading, read_records
from medcap.errors import UserError

Value = TypeVar("Value")


@dataclass
class Tally:
    """Counts what was read and what was left out, with the first case of each reason."""

    read: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    first: dict[str, str] = field(default_factory=dict)

    def skip(self, reason: str, location: str) -> None:
        """Count a record or a row that is left out.

        Args:
            reason: reason, in words that are the same for all cases.
            location: the file and row, or the image.
        """
        self.skipped[reason] += 1
        self.first.setdefault(reason, location)

    def check_first(self, path: Path, record: Mapping[str, Any], keys: Sequence[str]) -> None:
        """Accept any file: records that lack a key are left out one by one."""


class Strict(Tally):
    """Stops at the first damaged record: a benchmark that lacks rows is another benchmark.

    Args:
        title: what the file should be of.
    """

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title = title

    def skip(self, reason: str, location: str) -> None:
        """Raise the error that names the record."""
        raise UserError(f"{location}: {reason}; the benchmark is not complete without it: download the file again")

    def check_first(self, path: Path, record: Mapping[str, Any], keys: Sequence[str]) -> None:
        """Raise an error if the first record lacks one of ``keys``: the file is not what it is taken for."""
        missing = [key for key in keys if key not in record]
        if missing and self.read == 1:
            raise UserError(
                f"{path} is not a file of {self.title}: its first row has no '{missing[0]}' (it has:"
                f" {', '.join(map(str, record)) or 'nothing'}); the task vqa reads other layouts"
            )


def json_records(path: Path, tally: Tally) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the objects of a JSON array or of JSONL, recognised by the content.

    Args:
        path: the file, UTF-8.
        tally: counts damaged lines of JSONL and rows that are not objects.

    Yields:
        The row's place in words and the object.

    Raises:
        UserError: if the file cannot be read, is empty, or is an array that is not valid JSON.
    """
    from medcap.datasets.rows.json_spans import stream_rows

    for index, text in enumerate(stream_rows(path)):
        location = f"{path}, row {index}"
        tally.read += 1
        try:
            value = parse_json(text)
        except JsonError as error:
            tally.skip("not valid JSON" if error.line is not None else f"not valid JSON ({error.reason})", location)
            continue
        if isinstance(value, Mapping):
            yield location, value
        else:
            tally.skip("the row is not an object", location)


def csv_records(
    path: Path, columns: Sequence[str], tally: Tally, delimiter: str = ",", quoted: bool | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the rows of a CSV file with a heading, every field as the text that it is.

    Args:
        path: the file, UTF-8.
        columns: what the heading must have.
        tally: counts rows that are damaged, or have more or fewer fields than the heading.
        delimiter: between fields; with tabs there is no quoting.
        quoted: whether fields may be quoted nevertheless, as pandas writes them.

    Yields:
        The row's place in words and its fields.

    Raises:
        UserError: if the file cannot be read, lacks a column, or has two of one name.
    """
    heading = csv_heading(path, columns, delimiter, quoted)
    with _utf8(path), _byte_progress(path) as bar:
        advance = lambda position: bar.update(position - bar.n)  # noqa: E731
        for record in read_records(path, heading, delimiter, MAX_FIELD, advance, quoted):
            if record.problem is None:
                tally.read += 1
                yield f"{path}, line {record.last}", dict(zip(heading, record.fields, strict=True))
                continue
            # A quote that is not meant as one runs over rows: each of their lines is one that was not read.
            for _ in filter(str.strip, record.lines):
                tally.read += 1
                tally.skip(record.problem, f"{path}, {record.location}")


def csv_heading(path: Path, columns: Sequence[str], delimiter: str = ",", quoted: bool | None = None) -> list[str]:
    """Read the names of a CSV file's columns.

    Raises:
        UserError: if the file cannot be read, lacks one of ``columns``, or has two of one name.
    """
    with _utf8(path):
        return read_heading(path, columns, delimiter, MAX_FIELD, quoted)


def bar_records(path: Path, layout: str, tally: Tally) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines of a text file whose fields stand between ``|``.

    Args:
        path: the file, UTF-8, or the Windows code page where a line is not UTF-8.
        layout: the names of the fields with ``|`` between them; the last one takes what is left.
        tally: counts lines with fewer fields.

    Yields:
        The line's place in words and its fields, stripped.

    Raises:
        UserError: if the file cannot be read.
    """
    bars = layout.count("|")
    try:
        with path.open("rb") as file:
            for number, line in enumerate(progress(file, path.name, "line"), start=1):
                text = _decode(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
                if not text:
                    continue
                tally.read += 1
                fields = [field.strip() for field in text.split("|", bars)]
                if len(fields) > bars:
                    yield f"{path}, line {number}", fields
                else:
                    tally.skip(f"expected {layout}", f"{path}, line {number}")
    except OSError as error:
        raise UserError(f"data file {path} cannot be read: {error.strerror}") from error


def parquet_records(
    paths: Sequence[Path], columns: Sequence[str], tally: Tally
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the rows of parquet files, one file after the other.

    Raises:
        UserError: if a file is damaged or lacks one of ``columns``.
    """
    from medcap.datasets.rows.parquet_rows import read_parquet

    for path in paths:
        for index, row in enumerate(progress(read_parquet(path, columns), path.name, "row")):
            tally.read += 1
            yield f"{path}, row {index}", row


@contextlib.contextmanager
def _utf8(path: Path) -> Generator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason}): write it as UTF-8") from error


def _decode(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError:
        return line.decode("cp1252", errors="replace")


def progress(items: Iterable[Value], name: str, unit: str) -> Iterable[Value]:
    """Go through ``items`` with a progress bar, on a terminal.

    Args:
        items: any number of items.
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
