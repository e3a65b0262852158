"""Members of tar files by name, read in place: nothing is ever extracted.

A member is called ``/folder/train-000000.tar!/sub/a.jpg`` wherever a path is expected: the tar file, ``!/`` and the
member's name. Names are data: one such as ``../a.jpg`` finds the member of that name and touches no other file.
"""

from __future__ import annotations

import bisect
import contextlib
import glob
import hashlib
import io
import itertools
import json
import os
import re
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from medcap.data.storage.cache import keep_arrays
from medcap.data.storage.tar_table import hash_name, member_name, walk_tars
from medcap.errors import UserError

SEPARATOR = "!/"
SUFFIX = ".tar"
MAX_TARS = 100_000
_COMPRESSED_SUFFIXES = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
_MAX_DESCRIPTORS = 64
_FORMAT = 1
_BRACES = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")


def is_tar_pattern(name: str | Path) -> bool:
    """Return whether a name means tar files: it ends in .tar, or as compressed ones do, which are refused later."""
    return str(name).lower().endswith((SUFFIX, *_COMPRESSED_SUFFIXES))


def find_tars(pattern: str | Path) -> list[Path]:
    """Expand a name of tar files.

    Args:
        pattern: a file, a glob (``shards/*.tar``) or braces (``train-{000000..000099}.tar``, ``{train,more}.tar``).

    Returns:
        The files, links followed, each once: braces in their order, the matches of a glob sorted.

    Raises:
        UserError: if a file that is named does not exist, nothing matches a glob, or there are too many.
    """
    text = str(pattern)
    names = [text] if os.path.isfile(text) else list(itertools.islice(_expand_braces(text), MAX_TARS + 1))
    if len(names) > MAX_TARS:
        raise UserError(f"{text} means more than {MAX_TARS:,} tar files: correct the numbers in its braces")
    found: dict[Path, None] = {}
    for name in names:
        if glob.has_magic(name) and not os.path.isfile(name):
            matches = sorted(match for match in glob.glob(name, recursive=True) if os.path.isfile(match))
            if not matches:
                raise UserError(f"no tar file matches {name}: correct the pattern")
        elif not os.path.isfile(name):
            of = "" if name == text else f" (of {text})"
            raise UserError(f"tar file {name}{of} does not exist: correct the name")
        else:
            matches = [name]
        found.update((Path(match).resolve(), None) for match in matches)
    return list(found)


def _expand_braces(text: str) -> Iterator[str]:
    for braces in _BRACES.finditer(text):
        span = _RANGE.fullmatch(braces[1])
        if span:
            first, last = int(span[1]), int(span[2])
            # As in a shell: a leading zero on either side asks for numbers of one width.
            padded = any(len(number) > 1 and number[0] == "0" for number in span.groups())
            width = max(map(len, span.groups())) if padded else 0
            step = 1 if first <= last else -1
            choices: Iterator[str] = (f"{number:0{width}d}" for number in range(first, last + step, step))
        elif "," in braces[1]:
            choices = iter(braces[1].split(","))
        else:
            continue
        for choice in choices:
            yield from _expand_braces(text[: braces.start()] + choice + text[braces.end() :])
        return
    yield text


class TarFiles:
    """The regular files in uncompressed tar files, by name or number.

    The table of members is made once by walking the headers and memory-mapped from the cache, so worker processes
    share it. A tar file is opened when it is first read in a process; the object may be forked, pickled and used
    by several threads.

    Args:
        paths: the tar files.
        cache: folder to keep the table in; None keeps it in memory.
        label: how messages to the user call all of them; by default the only or the first file.
        sequential: tell the system that the files will be read mostly from front to back.

    Attributes:
        paths: the tar files, links followed.
        starts: the number of the first member of each tar file, and the number of members at the end.
        fingerprint: identity of the content, from the members' names, sizes and header checksums in their order; the
            paths and times of the tar files are not part of it.

    Raises:
        UserError: if a file is missing, compressed, cut off or damaged.

    Example:
        >>> files = TarFiles(find_tars("shards/*.tar"))
        >>> content = files.read(files.find("sub/a.jpg"))
    """

    def __init__(
        self, paths: Sequence[str | Path], cache: Path | None = None, label: str = "", sequential: bool = False
    ) -> None:
        self.paths = tuple(Path(path).resolve() for path in paths)
        self.label = label or (f"{self.paths[0]} and {len(paths) - 1} more" if len(paths) > 1 else str(*self.paths))
        self._cache = cache
        self._sequential = sequential
        self._states = [_state(path) for path in self.paths]
        self._descriptors: dict[int, _Descriptor] = {}
        identity = json.dumps([_FORMAT, [[str(path), *at] for path, at in zip(self.paths, self._states, strict=True)]])
        folder = cache / "tars" / hashlib.sha256(identity.encode()).hexdigest() if cache else None
        arrays = keep_arrays(folder, lambda: walk_tars(self.paths))
        self._offsets, self._sizes = arrays["offsets"], arrays["sizes"]
        self._names, self._name_starts = arrays["names"], arrays["name_starts"]
        self._hashes, self._by_hash = arrays["hashes"], arrays["by_hash"]
        self.starts: list[int] = arrays["starts"].tolist()
        self.fingerprint: str = arrays["fingerprint"].tobytes().hex()

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self._offsets)

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle what it takes to open the files again, not the table."""
        return _reopen, (self.paths, self._cache, self.label, self._sequential, self.fingerprint)

    def find(self, name: str, tar: int | None = None) -> int | None:
        """Look a member up.

        Args:
            name: its name; a leading ``./`` has no meaning.
            tar: number of the tar file to look in; None looks in all.

        Returns:
            The member's number, or None. The first tar file that has it wins; within one, the last member of that
            name, as when the tar file is extracted.
        """
        encoded = member_name(name).encode("utf-8", "surrogatepass")
        hashed = hash_name(encoded)
        position, end = (int(np.searchsorted(self._hashes, hashed, side)) for side in ("left", "right"))
        if tar is not None:
            # Shards often number their samples from 0 each: one name may be in thousands of them.
            first = self.starts[tar]
            position += bisect.bisect_left(self._by_hash[position:end], True, key=lambda member: member >= first)
        for member in map(int, self._by_hash[position:end]):
            if tar is not None and member >= self.starts[tar + 1]:
                break
            if self._encoded_name(member) == encoded:
                return member
        return None

    def name(self, member: int) -> str:
        """Return the member's name within its tar file."""
        return self._encoded_name(member).decode("utf-8", "surrogatepass")

    def names(self) -> Iterator[str]:
        """All members' names in their order."""
        for first in range(0, len(self), 100_000):
            bounds = self._name_starts[first : first + 100_001].tolist()
            text = self._names[bounds[0] : bounds[-1]].tobytes()
            for start, end in itertools.pairwise(bounds):
                yield text[start - bounds[0] : end - bounds[0]].decode("utf-8", "surrogatepass")

    def tar_of(self, member: int) -> int:
        """Return the number of the tar file that the member is in."""
        return bisect.bisect_right(self.starts, member) - 1

    def path(self, member: int) -> Path:
        """Return the member as a path of the form ``file.tar!/name``."""
        return Path(f"{self.paths[self.tar_of(member)]}{SEPARATOR}{self.name(member)}")

    def size(self, member: int) -> int:
        """Bytes of the member."""
        return int(self._sizes[member])

    def read(self, member: int) -> bytes:
        """Read a whole member.

        Raises:
            UserError: if the tar file cannot be read or has changed since its table was made.
        """
        return self._read(member, 0, self.size(member))

    def open(self, member: int) -> io.BufferedReader:
        """Open a member as a file that reads only what it is asked for."""
        return io.BufferedReader(_MemberStream(self, member))

    def _read(self, member: int, start: int, count: int) -> bytes:
        tar = self.tar_of(member)
        descriptor = self._descriptor(tar)
        offset = int(self._offsets[member]) + start
        parts: list[bytes] = []
        while count:
            try:
                part = os.pread(descriptor.number, count, offset)
            except OSError as error:
                raise UserError(f"tar file {self.paths[tar]} cannot be read: {error.strerror}") from error
            if not part:
                raise UserError(f"tar file {self.paths[tar]} has become shorter: start again once it is whole")
            parts.append(part)
            offset += len(part)
            count -= len(part)
        return b"".join(parts)

    def _descriptor(self, tar: int) -> _Descriptor:
        # No lock: one held by another thread at a fork would never be released in the child. Each step on the plain
        # dictionary is atomic, as an OrderedDict's are not, and a descriptor that another thread still reads from is
        # closed only when that thread lets go of it.
        descriptor = self._descriptors.pop(tar, None)
        if descriptor is None:
            descriptor = _Descriptor(self.paths[tar], self._states[tar], self._sequential)
        self._descriptors[tar] = descriptor  # at the end: the first is the one that was used longest ago
        while len(self._descriptors) > _MAX_DESCRIPTORS:
            with contextlib.suppress(StopIteration, RuntimeError):  # another thread has changed it between two steps
                self._descriptors.pop(next(iter(self._descriptors)), None)
        return descriptor

    def _encoded_name(self, member: int) -> bytes:
        return self._names[self._name_starts[member] : self._name_starts[member + 1]].tobytes()


class _Descriptor:
    """An open tar file that closes itself when nothing refers to it any more."""

    def __init__(self, path: Path, state: tuple[int, int], sequential: bool) -> None:
        self.number = -1
        try:
            self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            found = os.fstat(self.number)
            if sequential and hasattr(os, "posix_fadvise"):
                os.posix_fadvise(self.number, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        except OSError as error:
            raise UserError(f"tar file {path} cannot be opened: {error.strerror}") from error
        if (found.st_size, found.st_mtime_ns) != state:
            raise UserError(f"tar file {path} has changed since this run opened it: start again once it is whole")

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


class _MemberStream(io.RawIOBase):
    """A member as a seekable file."""

    def __init__(self, files: TarFiles, member: int) -> None:
        self.name = str(files.path(member))  # as files that are opened have it
        self._files = files
        self._member = member
        self._position = 0
        self._size = files.size(member)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise OSError("seek before the start")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        count = max(0, min(len(buffer), self._size - self._position))
        buffer[:count] = self._files._read(self._member, self._position, count)
        self._position += count
        return count


def _reopen(paths: tuple[Path, ...], cache: Path | None, label: str, sequential: bool, fingerprint: str) -> TarFiles:
    files = TarFiles(paths, cache, label, sequential)
    # [Contract] members are known by number: in another process a number must mean the same member.
    if files.fingerprint != fingerprint:
        raise UserError(f"{label}: a tar file has changed since this run opened it: start again once it is whole")
    return files


def _state(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns."""
    try:
        found = path.stat()
    except OSError as error:
        raise UserError(f"tar file {path} cannot be opened: {error.strerror}") from error
    if not stat.S_ISREG(found.st_mode):
        raise UserError(f"{path} is not a tar file")
    return found.st_size, found.st_mtime_ns
