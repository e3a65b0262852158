"""What people thought of answers, a line each."""

from __future__ import annotations

import json
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medcap.errors import UserError

# A log that is never read must not fill the disk.
MAX_BYTES = 256 * 2**20


class VoteLog:
    """A JSONL file that votes are appended to, each written whole before the voter hears of it.

    Args:
        path: is made if it is not there; a later server continues it.

    Raises:
        UserError: if it cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8"):
                pass
        except OSError as error:
            raise UserError(f"votes cannot be written to {path} ({error.strerror}): give another --votes") from error

    def add(self, vote: dict[str, Any]) -> bool:
        """Append a vote with the time.

        Args:
            vote: what JSON can hold.

        Returns:
            False if the file is full.

        Raises:
            OSError: if the disk is.
        """
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="seconds"), **vote}, ensure_ascii=False) + "\n"
        with self._lock, self._path.open("ab") as file:
            if file.tell() + len(line.encode()) > MAX_BYTES:
                return False
            # One write: a line is there or not, and never between the halves of another.
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
        return True
