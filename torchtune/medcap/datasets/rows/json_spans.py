"""The rows of JSON and JSONL files, or where they begin and end, found in one pass over the bytes."""

from __future__ import annotations

import codecs
import hashlib
import json
import os
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import numpy as np
from tqdm import tqdm

from medcap.data.json_text import JsonError, json_error
from medcap.datasets.rows.data_files import BOM, not_text, one_object
from medcap.errors import UserError

_BLOCK = 1 << 22  # bytes
_LINE_ENDS = (b"\n"[0], b"\r"[0])
_BLANK_BYTES = b" \t\n\r\v\f"
_BLANKS = re.compile(r"[ \t\n\r]*")
_SEPARATOR = re.compile(r"[ \t\n\r]*[,\]]")


def find_spans(file: BinaryIO, path: Path) -> tuple[str, np.ndarray]:
    """Find the rows of a JSON array or of JSONL; distinguished by the content.

    The rows of JSONL are not decoded: whether one is valid JSON stays open.

    Args:
        file: opened for reading, unbuffered, at its beginning.
        path: how messages call it.

    Returns:
        A fingerprint of the content, and ``[n, 2]`` int64: each row's first byte and the byte after its last.

    Raises:
        UserError: if the file is empty, not UTF-8, an array that is not valid JSON, or an object that holds the rows in
            a list.
    """
    begin, character = _first_character(file, path)
    digest = hashlib.sha256()
    size = os.fstat(file.fileno()).st_size
    with _byte_progress(size, "indexing rows") as progress:
        blocks = _read_blocks(file, path, digest, progress)
        spans = _Array(blocks, path).spans(begin) if character == b"[" else _line_spans(blocks, file, begin)
    whole = one_object(path) if character == b"{" else None
    if whole is not None:
        spans = np.array([whole], dtype=np.int64)
    return f"{size}-{digest.hexdigest()}", spans


def stream_rows(path: Path) -> Iterator[bytes]:
    """Yield the rows of a JSON array or of JSONL from the first to the last, without finding their places before.

    The memory that it takes does not grow with the file. Rows of JSONL are not decoded, as in ``find_spans``.

    Args:
        path: the file.

    Yields:
        The text of each row, UTF-8.

    Raises:
        UserError: if the file cannot be read, is empty, changes meanwhile, is not UTF-8, or is an array that is not
            valid JSON; after the rows that stand before that place.
    """
    try:
        with path.open("rb", buffering=0) as file:
            begin, character = _first_character(file, path)
            before = os.fstat(file.fileno())
            with _byte_progress(before.st_size, path.name) as progress:
                blocks = _read_blocks(file, path, hashlib.sha256(), progress)
                whole = one_object(path) if character == b"{" else None
                if whole is not None:
                    start, end = whole
                    yield b"".join(blocks)[start:end]
                else:
                    yield from _Array(blocks, path).rows(begin) if character == b"[" else _lines(blocks, begin)
            after = os.fstat(file.fileno())
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise UserError(f"data file {path} was changed while it was read: start again when it is complete")
    except OSError as error:
        raise UserError(f"data file {path} cannot be read: {error.strerror}") from error


def _byte_progress(size: int, name: str) -> tqdm[Any]:
    return tqdm(
        total=size,
        desc=name,
        unit="B",
        unit_scale=True,
        delay=3,
        mininterval=1,
        disable=None,
    )


def _first_character(file: BinaryIO, path: Path) -> tuple[int, bytes]:
    """Return where the text begins, after a byte order mark, and its first character that is not blank.

    The file is at its beginning before and after.

    Raises:
        UserError: if there is none.
    """
    head = file.read(4096)
    begin = len(BOM) if head.startswith(BOM) else 0
    text = head[begin:].lstrip()
    while not text:
        block = file.read(_BLOCK)
        if not block:
            raise UserError(f"data file {path} is empty")
        text = block.lstrip()
    file.seek(0)
    return begin, text[:1]


def _read_blocks(file: BinaryIO, path: Path, digest: Any, progress: tqdm[Any]) -> Iterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0
    last = False
    while not last:
        block = file.read(_BLOCK)
        last = not block
        digest.update(block)
        pending = len(decoder.getstate()[0])
        try:
            decoder.decode(block, last)
        except UnicodeDecodeError as error:
            byte = position - pending + error.start
            raise not_text(path, f"{error.reason} at byte {byte}") from error
        position += len(block)
        progress.update(len(block))
        if block:
            yield block


def _lines(blocks: Iterator[bytes], begin: int) -> Iterator[bytes]:
    kept = b""
    for block in blocks:
        skipped = min(begin, len(block))
        begin -= skipped
        *lines, kept = (kept + block[skipped:]).replace(b"\r", b"\n").split(b"\n")
        yield from (line for line in lines if line.strip(_BLANK_BYTES))
    if kept.strip(_BLANK_BYTES):
        yield kept


def _line_spans(blocks: Iterator[bytes], file: BinaryIO, begin: int) -> np.ndarray:
    ends, doubtful = [], []
    position = 0
    after_line_end = True
    for block in blocks:
        content = np.frombuffer(block, dtype=np.uint8)
        is_end = content == _LINE_ENDS[0]
        if b"\r" in block:
            is_end |= content == _LINE_ENDS[1]
        found = np.flatnonzero(is_end)
        starts = found + 1
        if after_line_end:
            starts = np.concatenate([[0], starts])
        after_line_end = bool(is_end[-1])
        starts = starts[starts < len(block)]
        doubtful.append(position + starts[content[starts] <= b" "[0]])
        ends.append(position + found)
        position += len(block)
    if not after_line_end:
        ends.append(np.array([position]))
    line_ends = np.concatenate(ends).astype(np.int64)
    spans = np.stack([np.concatenate([[0], line_ends[:-1] + 1]), line_ends], axis=1)
    spans[0, 0] = begin
    kept = spans[:, 1] > spans[:, 0]
    # Only a line that begins with a blank can be all blanks, and there are few of them.
    if begin:
        doubtful.append(np.array([begin]))
    for line in np.searchsorted(spans[:, 0], np.concatenate(doubtful)).tolist():
        kept[line] = _has_text(file.fileno(), *spans[line].tolist())
    return np.ascontiguousarray(spans[kept])


def _has_text(descriptor: int, start: int, end: int) -> bool:
    while start < end:
        piece = os.pread(descriptor, min(end - start, 1 << 16), start)
        if piece.strip(_BLANK_BYTES) or not piece:
            return bool(piece)
        start += len(piece)
    return False


class _Array:
    """Finds the elements of a JSON array in a window of text that moves over the file.

    The text is decoded as Latin-1, so that a character is a byte: JSON's structure is ASCII, and what the strings say
    does not matter here.
    """

    def __init__(self, blocks: Iterator[bytes], path: Path) -> None:
        self._blocks = blocks
        self._path = path
        self._text = ""
        self._cursor = 0  # of the next character in the text
        self._offset = 0  # of the text in the file, bytes
        self._lines = 0  # before the text
        self._decode = json.JSONDecoder().raw_decode

    def spans(self, begin: int) -> np.ndarray:
        """Return where the elements are.

        Args:
            begin: where the text begins, bytes.

        Returns:
            ``[n, 2]`` int64.

        Raises:
            UserError: at the first place that is not valid JSON.
        """
        found = array("q")
        for length in self._elements(begin):
            found.append(self._offset + self._cursor)
            found.append(self._offset + self._cursor + length)
        return np.frombuffer(found, dtype=np.int64).reshape(-1, 2) if found else np.empty((0, 2), dtype=np.int64)

    def rows(self, begin: int) -> Iterator[bytes]:
        """Yield the elements' texts; arguments and errors as for ``spans``."""
        for length in self._elements(begin):
            yield self._text[self._cursor : self._cursor + length].encode("latin-1")

    def _elements(self, begin: int) -> Iterator[int]:
        """Yield the length of each element, bytes, at the time when the place is its first."""
        while len(self._text) < begin and self._extend():
            pass
        self._cursor = begin
        if self._next() != "[":
            self._fail(JsonError("Expecting value", position=self._cursor))
        self._cursor += 1
        if self._next() == "]":
            self._cursor += 1
        else:
            while True:
                self._next()
                length = self._element()
                yield length
                self._cursor += length
                character = self._next()
                if character not in (",", "]"):
                    self._fail(JsonError("Expecting ',' delimiter", position=self._cursor))
                self._cursor += 1
                if character == "]":
                    break
        if self._next():
            self._fail(JsonError("Extra data", position=self._cursor))

    def _next(self) -> str:
        """Return the next character that is not a blank; empty at the end of the file."""
        while True:
            blanks = _BLANKS.match(self._text, self._cursor)
            assert blanks is not None, "none match too"
            self._cursor = blanks.end()
            if self._cursor < len(self._text):
                return self._text[self._cursor]
            if not self._extend():
                return ""

    def _element(self) -> int:
        """Length of the element that begins here, bytes."""
        while True:
            try:
                _, end = self._decode(self._text, self._cursor)
            except (ValueError, RecursionError) as error:
                problem = json_error(error)
                if problem.position is None or not self._extend():
                    self._fail(problem)
            else:
                # A number that is cut by the end of the window, such as 1.5e, also decodes, as 1.5.
                if _SEPARATOR.match(self._text, end) or not self._extend():
                    return end - self._cursor

    def _extend(self) -> bool:
        """Read on, by at least as much as is kept, so that even one huge element is decoded only a few times."""
        kept = self._text[self._cursor :]
        pieces, size = [], 0
        for block in self._blocks:
            pieces.append(block.decode("latin-1"))
            size += len(block)
            if size >= len(kept):
                break
        if not pieces:
            return False
        self._lines += self._text.count("\n", 0, self._cursor)
        self._offset += self._cursor
        self._text = kept + "".join(pieces)
        self._cursor = 0
        return True

    def _fail(self, problem: JsonError) -> NoReturn:
        cut = problem.position is not None
        line = self._lines + self._text.count("\n", 0, problem.position if cut else self._cursor) + 1
        remedy = "; is the file cut off?" if cut else ""
        raise UserError(f"{self._path}, line {line}: not valid JSON ({problem.reason}){remedy}")
