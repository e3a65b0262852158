"""Files of fields with a heading (CSV, TSV), where a stray quote must not swallow the rows after it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, TextIO, cast

from medcap.datasets.rows.data_files import check_data_file
from medcap.errors import UserError

NOT_CLOSED = "damaged: a quote is not closed"
BEHIND_QUOTE = "damaged: text stands behind a closing quote"
LIKE_ROWS = "damaged: a quoted field runs over lines that look like rows"
NOT_READABLE = "not a readable line of CSV"
WRONG_COUNT = "not as many fields as the heading"
_STEP = 256  # lines between looks at the place in the file
MAX_FIELD = 1 << 27  # characters; PMC-Patients has whole cases in a field
_MOST_LETTERS = 200  # of the columns, in a message
_SUFFIX = re.compile(r"\.\w{2,5}$")


@dataclass(frozen=True)
class Record:
    """One record of the file.

    Attributes:
        number: number of its first line, from 1.
        lines: its lines as they are in the file; more than one where a quoted field runs over lines.
        fields: their texts; none where the problem is one of quotes.
        problem: why it cannot be used; None for a good one.
    """

    number: int
    lines: tuple[str, ...]
    fields: list[str]
    problem: str | None = None

    @property
    def last(self) -> int:
        """The number of its last line."""
        return self.number + len(self.lines) - 1

    @property
    def location(self) -> str:
        """Return its place in words."""
        return f"line {self.number}" if len(self.lines) == 1 else f"lines {self.number} to {self.last}"


def delimiter_of(path: Path) -> str:
    """Return a tab for ``.tsv``, else a comma."""
    return "\t" if path.suffix.lower() == ".tsv" else ","


def read_heading(
    path: Path,
    columns: Sequence[str] = (),
    delimiter: str = ",",
    max_field: int = MAX_FIELD,
    quoted: bool | None = None,
) -> list[str]:
    """Read the names of a file's columns.

    Args:
        path: the file, UTF-8.
        columns: those that must be there.
        delimiter: between fields.
        max_field: characters of a field at most.
        quoted: whether fields may be quoted; see :func:`read_records`.

    Returns:
        The names, in their order.

    Raises:
        UserError: if the file cannot be read, lacks one of ``columns``, or has two columns of one name.
        UnicodeDecodeError: if it is not UTF-8.
    """
    heading = next(_records(path, delimiter, max_field, quoted=quoted), None)
    if heading is not None and heading.problem is not None:
        raise UserError(f"{path}, {heading.location}: the heading is {heading.problem}")
    names = [] if heading is None else heading.fields
    for column in columns:
        if column not in names:
            there = ", ".join(names) or "nothing"
            there = there if len(there) <= _MOST_LETTERS else there[:_MOST_LETTERS] + " ..."
            raise UserError(f"{path} has no column '{column}'{_why_not(there, len(names), delimiter)}")
    for column in names:
        # pandas writes its index without a name, and the index of a table that was read with one again.
        if column and names.count(column) > 1:
            raise UserError(f"{path} has {names.count(column)} columns '{column}': rename or remove all but one")
    return names


def read_records(
    path: Path,
    heading: Sequence[str],
    delimiter: str = ",",
    max_field: int = MAX_FIELD,
    advance: Callable[[int], None] | None = None,
    quoted: bool | None = None,
) -> Iterator[Record]:
    """Read what comes after the heading; damaged records come with their problem.

    Fields of a comma-separated file may be quoted, and a quoted one may run over lines. A tab-separated file has no
    quoting: a quote in it is a character like any other, unless ``quoted`` says that pandas wrote it.

    Args:
        path: the file, UTF-8.
        heading: heading as :func:`read_heading` gave it.
        delimiter: between fields.
        max_field: characters of a field at most.
        advance: called with the bytes read so far, now and then.
        quoted: whether fields may be quoted; None for what the delimiter says.

    Yields:
        The records; empty lines are left out. A good one has as many fields as the heading.

    Raises:
        UserError: if the file cannot be read.
        UnicodeDecodeError: if it is not UTF-8.
    """
    records = _records(path, delimiter, max_field, advance, quoted)
    next(records, None)
    for record in records:
        problem = record.problem
        if problem is None and len(record.fields) != len(heading):
            problem = WRONG_COUNT
        elif problem is None and len(record.lines) > 1 and _holds_rows(record, delimiter):
            problem = LIKE_ROWS
        yield record if problem is None else replace(record, problem=problem)


def _records(
    path: Path,
    delimiter: str,
    max_field: int,
    advance: Callable[[int], None] | None = None,
    quoted: bool | None = None,
) -> Iterator[Record]:
    # The limit of the module, 131,072 characters, is for all its users; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), max_field))
    check_data_file(path)
    quoted = delimiter != "\t" if quoted is None else quoted
    quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = _Lines(file)
            reader = csv.reader(lines, delimiter=delimiter, quoting=quoting, strict=True)
            while True:
                number = lines.number + 1
                lines.taken = []
                try:
                    fields, problem = next(reader), None
                except StopIteration:
                    break
                except csv.Error as error:
                    fields, problem = [], _problem(error)
                if advance is not None and number % _STEP == 0:
                    advance(cast(BinaryIO, file.buffer).tell())
                if fields or problem is not None:
                    yield Record(number, tuple(lines.taken), fields, problem)
    except OSError as error:
        raise UserError(f"data file {path} cannot be read: {error.strerror}") from error


class _Lines:
    """Pass the lines of a file to a reader and keep those of its current record."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self.taken: list[str] = []
        self.number = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._file)
        self.number += 1
        self.taken.append(line)
        return line


def _problem(error: csv.Error) -> str:
    reason = str(error)
    if "unexpected end of data" in reason:
        return NOT_CLOSED
    return BEHIND_QUOTE if "expected after" in reason else NOT_READABLE


def _why_not(there: str, count: int, delimiter: str) -> str:
    """Say why a heading may lack a column: what it looks like, or which columns it has."""
    if there.startswith(("{", "[")):
        return ": it is JSON and no table"
    others = {";": "semicolons", "\t": "tabs", ",": "commas", "|": "|"}
    between = {other: there.count(other) for other in others if other != delimiter}
    likely = max(between, key=lambda other: between[other])
    if count == 1 and between[likely]:
        wanted = "tabs" if delimiter == "\t" else "commas"
        return f": its fields seem to be separated by {others[likely]}; save it with {wanted} between them"
    return f" (it has: {there})"


def _holds_rows(record: Record, delimiter: str) -> bool:
    """Return whether a line inside a quoted field looks like a row: then the quote may be a stray one.

    Such a line has as many fields as the record, and under one of the record's other columns something that looks
    like what stands there, such as another image's name.
    """
    own = record.fields
    spanning = [column for column, text in enumerate(own) if "\n" in text or "\r" in text]
    if not spanning:
        return False
    first, last = spanning[0], spanning[-1]
    for location, line in enumerate(record.lines):
        fields = _split(line, delimiter)
        if len(fields) != len(own):
            continue
        others = range(len(own))
        if location == 0:  # begins with the record's own fields, and the last line ends with its own
            others = range(first + 1, len(own))
        elif location == len(record.lines) - 1:
            others = range(last)
        if any(column not in spanning and _is_alike(own[column], fields[column]) for column in others):
            return True
    return False


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line.rstrip("\r\n")], delimiter=delimiter), [])
    except csv.Error:
        return []


def _is_alike(own: str, other: str) -> bool:
    own, other = own.strip(), other.strip()
    suffix = _SUFFIX.search(own)
    if suffix is not None:
        return other.lower().endswith(suffix[0].lower())
    if not own or not other or any(map(str.isspace, own + other)):
        return False
    return own.isalpha() or not other.isalpha()
