"""Where the rows of JSON and JSONL files begin and end, found in one pass over the bytes."""

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

from medcap.errors import UserError

_BLOCK = 1 << 22  # bytes
_BOM = b"\xef\xbb\xbf"
_LINE_ENDS = (b"\n"[0], b"\r"[0])
_BLANK_BYTES = b" \t\n\r\v\f"
_BLANKS = re.compile(r"[ \t\n\r]*")
_SEPARATOR = re.compile(r"[ \t\n\r]*[,\]]")


def find_spans(file: BinaryIO, path: Path) -> tuple[str, np.ndarray]:
    """Find the rows of a JSON array or of JSONL; told apart by the content.

    The rows of JSONL are not decoded: whether one is valid JSON stays open.

    Args:
        file: opened for reading, unbuffered, at its beginning.
        path: how messages call it.

    Returns:
        A fingerprint of the content, and ``[n, 2]`` int64: each row's first byte and the byte behind its last.

    Raises:
        UserError: if the file is empty, not UTF-8, or an array that is not valid JSON.
    """
    begin, character = _first_character(file)
    if not character:
        raise UserError(f"data file {path} is empty")
    file.seek(0)
    digest = hashlib.sha256()
    size = os.fstat(file.fileno()).st_size
    with tqdm(
        total=size,
        desc="indexing rows",
        unit="B",
        unit_scale=True,
        delay=3,
        mininterval=1,
        disable=None,
    ) as progress:
        blocks = _read_blocks(file, path, digest, progress)
        spans = _Array(blocks, path).spans(begin) if character == b"[" else _line_spans(blocks, file, begin)
    return f"{size}-{digest.hexdigest()}", spans


def _first_character(file: BinaryIO) -> tuple[int, bytes]:
    """Where the text begins, behind a byte order mark, and its first character that is not blank."""
    head = file.read(4096)
    begin = len(_BOM) if head.startswith(_BOM) else 0
    text = head[begin:].lstrip()
    while not text:
        block = file.read(_BLOCK)
        if not block:
            return begin, b""
        text = block.lstrip()
    return begin, text[:1]


def _read_blocks(file: BinaryIO, path: Path, digest: Any, progress: tqdm) -> Iterator[bytes]:
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
            place = position - pending + error.start
            raise UserError(
                f"data file {path} is not UTF-8 text: {error.reason} at byte {place}; write it as UTF-8"
            ) from error
        position += len(block)
        progress.update(len(block))
        if block:
            yield block


def _line_spans(blocks: Iterator[bytes], file: BinaryIO, begin: int) -> np.ndarray:
    ends, doubtful = [], []
    position = 0
    after_line_end = True
    for block in blocks:
        content = np.frombuffer(block, dtype=np.uint8)
        is_end = content == _LINE_ENDS[0]
        if b"\r" in block:
            is_end |= content == _LINE_ENDS[1]
        places = np.flatnonzero(is_end)
        starts = places + 1
        if after_line_end:
            starts = np.concatenate([[0], starts])
        after_line_end = bool(is_end[-1])
        starts = starts[starts < len(block)]
        doubtful.append(position + starts[content[starts] <= b" "[0]])
        ends.append(position + places)
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
        self._place = 0  # of the next character in the text
        self._offset = 0  # of the text in the file, bytes
        self._lines = 0  # before the text
        self._decode = json.JSONDecoder().raw_decode

    def spans(self, begin: int) -> np.ndarray:
        """Where the elements are.

        Args:
            begin: where the text begins, bytes.

        Returns:
            ``[n, 2]`` int64.

        Raises:
            UserError: at the first place that is not valid JSON.
        """
        places = array("q")
        while len(self._text) < begin and self._extend():
            pass
        self._place = begin
        if self._next() != "[":
            self._fail("Expecting value", self._place)
        self._place += 1
        if self._next() == "]":
            self._place += 1
        else:
            while True:
                self._next()
                length = self._element()
                places.append(self._offset + self._place)
                self._place += length
                places.append(self._offset + self._place)
                character = self._next()
                if character not in (",", "]"):
                    self._fail("Expecting ',' delimiter", self._place)
                self._place += 1
                if character == "]":
                    break
        if self._next():
            self._fail("Extra data", self._place)
        return np.frombuffer(places, dtype=np.int64).reshape(-1, 2) if places else np.empty((0, 2), dtype=np.int64)

    def _next(self) -> str:
        """The next character that is not a blank; empty at the end of the file."""
        while True:
            self._place = _BLANKS.match(self._text, self._place).end()
            if self._place < len(self._text):
                return self._text[self._place]
            if not self._extend():
                return ""

    def _element(self) -> int:
        """Length of the element that begins here, bytes."""
        while True:
            try:
                _, end = self._decode(self._text, self._place)
            except json.JSONDecodeError as error:
                if not self._extend():
                    self._fail(error.msg, error.pos)
            except (ValueError, RecursionError) as error:
                self._fail(json_problem(error), self._place)
            else:
                # A number that is cut by the end of the window, such as 1.5e, also decodes, as 1.5.
                if _SEPARATOR.match(self._text, end) or not self._extend():
                    return end - self._place

    def _extend(self) -> bool:
        """Read on, by at least as much as is kept, so that even one huge element is decoded only a few times."""
        kept = self._text[self._place :]
        pieces, size = [], 0
        for block in self._blocks:
            pieces.append(block.decode("latin-1"))
            size += len(block)
            if size >= len(kept):
                break
        if not pieces:
            return False
        self._lines += self._text.count("\n", 0, self._place)
        self._offset += self._place
        self._text = kept + "".join(pieces)
        self._place = 0
        return True

    def _fail(self, reason: str, place: int) -> NoReturn:
        line = self._lines + self._text.count("\n", 0, place) + 1
        raise UserError(f"{self._path}, line {line}: not valid JSON ({reason}); is the file cut off?")


def json_problem(error: Exception) -> str:
    """What is wrong, of an exception that decoding JSON raised."""
    if isinstance(error, json.JSONDecodeError):
        return error.msg
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
