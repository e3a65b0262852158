"""A file that is asked for, and what came of it so far.

What came lies beside the file as ``.NAME.partial``, with the server's word for this version of it in
``.NAME.partial.json`` (ETag or Last-Modified). A later request asks for the rest by ``Range`` and ``If-Range`` (RFC
9110, 13.1.5 and 14), so a file that has changed meanwhile is sent whole again.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from medcap.datasets.download.faults import Passing, Unavailable
from medcap.files import sync, temporary_name, write_json


@dataclass(frozen=True)
class Checksum:
    """A published digest.

    Attributes:
        algorithm: ``md5``, ``sha256``, or ``git`` for git's SHA-1 of a blob.
        digest: hexadecimal.
    """

    algorithm: str
    digest: str

    def of(self, path: Path) -> str:
        """Return the digest of a file by this algorithm."""
        digest = hashlib.new("sha1" if self.algorithm == "git" else self.algorithm, usedforsecurity=False)
        with path.open("rb") as file:
            if self.algorithm == "git":
                digest.update(f"blob {os.fstat(file.fileno()).st_size}\0".encode())
            while block := file.read(2**20):
                digest.update(block)
        return digest.hexdigest()


@dataclass(frozen=True)
class Target:
    """A file to fetch.

    Attributes:
        path: its final name.
        addresses: tried in this order.
        size: in bytes, where it is published.
        checksum: where one is published.
        most_bytes: more than this is refused.
        check: looks at the whole file and returns what is wrong with it, "" if nothing is.
    """

    path: Path
    addresses: tuple[str, ...]
    size: int | None = None
    checksum: Checksum | None = None
    most_bytes: int = 2**40
    check: Callable[[Path], str] = lambda path: ""


class Part:
    """What came of a file so far."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.path = temporary_name(target.path)
        self._notes = self.path.with_name(self.path.name + ".json")

    def usable(self, advance: Callable[[int], None]) -> int:
        """Return how many bytes need not come again; bytes that nothing can be compared with are dropped."""
        try:
            size = self.path.stat().st_size
        except FileNotFoundError:
            return 0
        published = self.target.size
        fits = published is None or size <= published
        if size and fits and (self.condition() or self.target.checksum is not None):
            return size
        self.drop(advance)
        return 0

    def condition(self) -> dict[str, str]:
        """Return the header by which a server sends the rest only of this version."""
        try:
            validator = json.loads(self._notes.read_text(encoding="utf-8"))["validator"]
        except (OSError, ValueError, KeyError, TypeError):
            return {}
        return {"If-Range": validator} if isinstance(validator, str) and validator else {}

    def begin(self, headers: Mapping[str, str]) -> None:
        """Note what the server calls this version. A weak ETag compares nothing (RFC 9110, 13.1.5)."""
        tag = headers.get("etag", "")
        validator = tag if tag and not tag.startswith("W/") else headers.get("last-modified", "")
        write_json(self._notes, {"validator": validator})

    def drop(self, advance: Callable[[int], None]) -> None:
        """Remove what came."""
        if self.path.exists():
            advance(-self.path.stat().st_size)
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)

    def finish(self, whole: bool, advance: Callable[[int], None]) -> None:
        """Check the file and give it its name.

        Args:
            whole: whether all of it came in one answer, so that another try would bring the same.
            advance: see :meth:`Client.fetch`.
        """
        target, size = self.target, self.path.stat().st_size
        wrong = ""
        if target.size is not None and size != target.size:
            wrong = f"it has {size:,} bytes, not {target.size:,} as published"
        elif target.checksum is not None and (found := target.checksum.of(self.path)) != target.checksum.digest.lower():
            wrong = f"its {target.checksum.algorithm} checksum is {found}, not {target.checksum.digest} as published"
        wrong = wrong or target.check(self.path)
        if wrong:
            self.drop(advance)
            raise Unavailable(wrong) if whole else Passing(wrong)
        sync(self.path)
        os.replace(self.path, target.path)
        sync(target.path.parent)
        self._notes.unlink(missing_ok=True)
