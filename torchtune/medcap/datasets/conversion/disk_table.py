"""Texts by key in a temporary file: sorts and joins that would not fit into memory."""

from __future__ import annotations

import os
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from medcap.errors import UserError


class DiskTable:
    """Store texts in the order in which they were added to their key; the file is deleted when the block ends.

    Args:
        folder: where the temporary file goes, next to the output and so on a disk that has room for it; None takes
            the system's folder.

    Raises:
        UserError: at the end of the block, if the file could not be written, as on a full disk.

    Example:
        >>> with DiskTable() as table:
        ...     table.add("b.jpg", "clear lungs")
        ...     list(table.sorted_keys()), table.texts("b.jpg")
        (['b.jpg'], ['clear lungs'])
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def __enter__(self) -> DiskTable:
        self._temporary = tempfile.TemporaryDirectory(prefix=".medcap-", dir=self._folder)
        self._connection = sqlite3.connect(os.path.join(self._temporary.name, "table"), isolation_level=None)
        # Nothing here outlives the process, so nothing has to be safe from its end.
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute("CREATE TABLE texts (key BLOB, text BLOB)")
        self._connection.execute("BEGIN")
        self._indexed = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._connection.close()
        self._temporary.cleanup()
        if isinstance(error, sqlite3.Error):
            location = Path(self._temporary.name).parent
            raise UserError(f"no temporary table can be kept in {location}: {error}") from error

    def add(self, key: str, text: str = "") -> None:
        """Add a text after those that the key has; all are added before any is asked for."""
        self._connection.execute("INSERT INTO texts VALUES (?, ?)", (_encode(key), _encode(text)))

    def sorted_keys(self) -> Iterator[str]:
        """Each key once, by code point."""
        self._index()
        for (key,) in self._connection.execute("SELECT DISTINCT key FROM texts ORDER BY key"):
            yield _decode(key)

    def texts(self, key: str) -> list[str]:
        """Return the texts of a key in their order; none for one that is not there."""
        self._index()
        found = self._connection.execute("SELECT text FROM texts WHERE key = ? ORDER BY rowid", (_encode(key),))
        return [_decode(text) for (text,) in found]

    def _index(self) -> None:
        # Created once, after all rows: an index that grows with them is written all over the disk again and again.
        if not self._indexed:
            self._connection.execute("CREATE INDEX by_key ON texts (key)")
            self._indexed = True


def _encode(text: str) -> bytes:
    # Names of files that are not UTF-8, and halves of characters in JSON, are surrogates.
    return text.encode("utf-8", "surrogatepass")


def _decode(text: bytes) -> str:
    return text.decode("utf-8", "surrogatepass")
