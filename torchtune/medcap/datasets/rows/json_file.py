"""Rows of JSON and JSONL files by their number, without holding the file.

Where each row begins and ends is found in one pass over the file and kept in the cache; after that a row is one read
at a known place, whatever the size of the file and the number of processes.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from medcap.data.json_text import JsonError, parse_json
from medcap.data.storage.cache import cache_folder, load_entry, store_entry
from medcap.datasets.rows.data_files import check_data_file
from medcap.datasets.rows.json_spans import find_spans
from medcap.errors import UserError

_FORMAT = 2
_SETTLED_SECONDS = 2.0


class JsonRows:
    """Rows of a JSON or JSONL file by their number; made by ``open_rows``.

    It may be used by threads and handed to forked and spawned processes: each opens the file for itself.

    Attributes:
        path: the file, as it was named.
        fingerprint: fingerprint of the content alone; copies of a file agree.
        sequential: False: a row is as near as any other.
    """

    sequential = False

    def __init__(self, path: Path, fingerprint: str, state: tuple[int, int], spans: np.ndarray) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self._resolved = path.resolve()
        self._state = state
        self._positions: np.ndarray | None = spans  # [n, 2] int64: first byte and the byte after the last
        self._num_rows = len(spans)
        self._file: tuple[int, _Descriptor] | None = None

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._num_rows

    def read(self, index: int) -> Any:
        """Decode one row.

        Args:
            index: index, counted from 0.

        Returns:
            The row's value.

        Raises:
            IndexError: if there is no such row.
            UserError: if the row is not valid JSON, or the file has changed.
        """
        content = self.text(index)
        try:
            return parse_json(content)
        except JsonError as error:
            cut = index == self._num_rows - 1 and error.line is not None
            remedy = "is the file cut off?" if cut else "fix the row or remove it"
            raise UserError(f"{self.name(index)}: not valid JSON ({error.reason}); {remedy}") from error

    def text(self, index: int) -> bytes:
        """Return the undecoded bytes of one row; arguments and errors as for ``read``."""
        if not 0 <= index < self._num_rows:
            raise IndexError(f"{self.path} has {self._num_rows} rows, none with the number {index}")
        start, end = self._spans()[index].tolist()
        content = self._open().read(start, end - start)
        if len(content) < end - start:
            self._fail_changed()
        return content

    def name(self, index: int) -> str:
        """Return how messages to the user call a row."""
        return f"{self.path}, row {index}"

    def order(self, generator: np.random.Generator | None) -> np.ndarray:
        """Every row once.

        Args:
            generator: decides the order; None for the order of the file.

        Returns:
            ``[n]`` int64.
        """
        if generator is None:
            return np.arange(self._num_rows, dtype=np.int64)
        return generator.permutation(self._num_rows).astype(np.int64, copy=False)

    def __getstate__(self) -> dict[str, Any]:
        # The spans would be copied out of the mapping: the other process maps the same cache entry instead.
        return {**self.__dict__, "_places": None, "_file": None}

    def _spans(self) -> np.ndarray:
        if self._positions is None:
            rows = open_rows(self._resolved)
            if rows.fingerprint != self.fingerprint:
                self._fail_changed()
            self._positions = rows._spans()
        return self._positions

    def _open(self) -> _Descriptor:
        file = self._file
        if file is None or file[0] != os.getpid():
            try:
                descriptor = _Descriptor(self._resolved)
            except OSError as error:
                raise UserError(f"data file {self.path} can no longer be opened: {error.strerror}") from error
            if _state(descriptor.number) != self._state:
                self._fail_changed()
            # One assignment: threads that come at the same time each have a whole pair.
            file = self._file = (os.getpid(), descriptor)
        return file[1]

    def _fail_changed(self) -> NoReturn:
        raise UserError(f"data file {self.path} was changed after it was opened: start again")


def open_rows(source: str | Path) -> JsonRows:
    """Open a JSON array, a single JSON object, or JSONL; distinguished by the content.

    The rows of JSONL are not decoded here: a damaged one is an error of ``JsonRows.read``.

    Args:
        source: the file, UTF-8.

    Returns:
        Its rows.

    Raises:
        UserError: if the file is missing, empty, not UTF-8, holds no rows, is an array that is not valid JSON, or is an
            object that holds the rows in a list.

    Example:
        >>> rows = open_rows("datasets/medcap/vqarad_train.json")
        >>> rows.read(len(rows) - 1)["image"]
    """
    path = Path(source)
    check_data_file(path)
    try:
        with path.open("rb", buffering=0) as file:
            state = _state(file.fileno())
            key = json.dumps([_FORMAT, str(path.resolve()), *state])
            folder = cache_folder() / "rows" / hashlib.sha256(key.encode()).hexdigest()
            entry = load_entry(folder)
            if entry is not None:
                return JsonRows(path, entry.notes["fingerprint"], state, entry.arrays["spans"])
            fingerprint, spans = find_spans(file, path)
            if _state(file.fileno()) != state:
                raise UserError(f"data file {path} was changed while it was read: start again when it is complete")
    except OSError as error:
        raise UserError(f"data file {path} cannot be read: {error.strerror}") from error
    if not len(spans):
        raise UserError(f"data file {path} holds no rows")
    # A file that was just written may be written again within one tick of the file system's clock, and would then
    # look the same: it is indexed again next time.
    if time.time() - state[1] / 1e9 > _SETTLED_SECONDS:
        spans = store_entry(folder, {"spans": spans}, {"fingerprint": fingerprint}).arrays["spans"]
    return JsonRows(path, fingerprint, state, spans)


class _Descriptor:
    """An open file that is closed when nothing refers to it any more."""

    def __init__(self, path: Path) -> None:
        self.number = -1
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)

    def read(self, start: int, size: int) -> bytes:
        """Read ``size`` bytes at ``start``, fewer at the end of the file; moves no position that others share."""
        content = os.pread(self.number, size, start)
        while len(content) < size:
            more = os.pread(self.number, size - len(content), start + len(content))
            if not more:
                break
            content += more
        return content


def _state(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns
