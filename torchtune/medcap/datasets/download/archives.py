"""Take files out of archives that nobody vouches for: only regular files, only below a folder, only so many bytes.

Every bound is checked twice, against what the archive says and against the bytes that come out of it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO

from medcap.data.images.suffixes import SUFFIXES
from medcap.data.storage.tar_table import BoundedHeader, member_name
from medcap.datasets.download.client import MARGIN
from medcap.datasets.download.listing import is_plain_path
from medcap.errors import UserError
from medcap.files import atomic_file, temporary_name

KINDS = (*SUFFIXES, ".json", ".jsonl", ".csv", ".tsv", ".txt", ".md", ".xml")
_BLOCK = 2**20


class ArchiveError(Exception):
    """An archive that is damaged or refused as a whole; the message is the reason."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one archive.

    Attributes:
        members: how many it may have.
        member_bytes: bytes of one of them.
        total_bytes: bytes that may come out of it altogether, in a tar file also of members that are passed over.
    """

    members: int = 2_000_000
    member_bytes: int = 2**30
    total_bytes: int = 2**38


_USUAL = Limits()


@dataclass
class Unpacked:
    """What came of an archive.

    Attributes:
        written: number of files.
        refused: members that were not written, and why.
    """

    written: int = 0
    refused: list[tuple[str, str]] = field(default_factory=list)


def unpack_zip(
    archive: Path,
    folder: Path,
    flat: bool = False,
    limits: Limits = _USUAL,
    advance: Callable[[int], None] = lambda count: None,
) -> Unpacked:
    """Write the files of a zip file into a folder.

    The folder that all files have in common is dropped: authors put one around their images or not. Hidden files and
    ``__MACOSX`` are passed over.

    Args:
        archive: the zip file.
        folder: where the files go; links in it are followed.
        flat: drop all folders; of two files of one name the second is refused.
        limits: bounds.
        advance: called with the number of members that are done.

    Returns:
        What was written, and what was refused: a name that leads out of the folder, a link, a kind that no data set
        has, encryption.

    Raises:
        ArchiveError: if it is damaged, or larger than the limits.
        UserError: if it does not fit on the disk.
    """
    done = Unpacked()
    try:
        with zipfile.ZipFile(archive) as opened:
            members = opened.infolist()
            if len(members) > limits.members:
                raise ArchiveError(f"it has {len(members):,} members, more than {limits.members:,}")
            wanted = [member for member in members if _is_wanted(member, done)]
            total = sum(member.file_size for member in wanted)
            if total > limits.total_bytes:
                raise ArchiveError(f"it says that it holds {total:,} bytes, more than {limits.total_bytes:,}")
            folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(folder).free
            if total + MARGIN > free:
                raise UserError(f"{archive} holds {total / 1e9:.1f} GB, but {free / 1e9:.1f} GB are free in {folder}")
            for member, name in _placed(wanted, flat, done):
                if member.file_size > limits.member_bytes:
                    raise ArchiveError(f"{name} has {member.file_size:,} bytes, more than {limits.member_bytes:,}")
                with opened.open(member) as file:
                    # zipfile stops at the size that it says, and compares the CRC.
                    _write(file, folder / name, member.file_size)
                done.written += 1
                advance(1)
    # zipfile raises NotImplementedError for a compression that it does not know, and RuntimeError for a password.
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ArchiveError(f"it is damaged: {error}") from None
    if hasattr(os, "sync"):
        os.sync()  # once: a flush for each of some hundred thousand images would take hours
    return done


def _is_wanted(member: zipfile.ZipInfo, done: Unpacked) -> bool:
    name, mode = member.filename, member.external_attr >> 16
    parts = PurePosixPath(name).parts
    if member.is_dir() or "__MACOSX" in parts or (parts and parts[-1].startswith(".")):
        return False
    if not is_plain_path(name):
        reason = "its name leads out of the folder"
    elif stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        reason = "it is no regular file but a link or a device"
    elif member.flag_bits & 0x1:
        reason = "it is encrypted"
    elif not name.lower().endswith(KINDS):
        reason = "no data set has files of its kind"
    else:
        return True
    done.refused.append((name, reason))
    return False


def _placed(members: list[zipfile.ZipInfo], flat: bool, done: Unpacked) -> Iterator[tuple[zipfile.ZipInfo, str]]:
    """Yield members with their names below the folder."""
    folders = {str(PurePosixPath(member.filename).parent) for member in members}
    common = os.path.commonpath(folders) if folders else ""
    taken: set[str] = set()
    for member in members:
        path = PurePosixPath(member.filename)
        name = path.name if flat else str(path.relative_to(common))
        if name in taken:
            done.refused.append((member.filename, "another file of the archive has this name"))
            continue
        taken.add(name)
        yield member, name


def _write(file: IO[bytes], path: Path, most: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        with temporary.open("wb") as out:
            written = 0
            while block := file.read(_BLOCK):
                written += len(block)
                if written > most:
                    raise ArchiveError(f"more bytes come out of {path.name} than the {most:,} that it says")
                out.write(block)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def extract_from_tar(
    archive: Path,
    wanted: Mapping[str, Sequence[Path]],
    limits: Limits = _USUAL,
    check: Callable[[Path], str] = lambda path: "",
) -> Unpacked:
    """Write some members of a tar file, plain or compressed by gzip or bzip2.

    Args:
        archive: the tar file; it is read once from front to back.
        wanted: name of a member -> files to write, at least one.
        limits: bounds.
        check: looks at a file before it gets its name and returns what is wrong with it.

    Returns:
        What was written, and what was refused: wanted members that are no regular files or do not pass the check, and
        any member whose name leads out of a folder or that is a link or a device.

    Raises:
        ArchiveError: if it is damaged or beyond the limits. What was written until then is whole.
    """
    done, names = Unpacked(), {member_name(name): paths for name, paths in wanted.items()}
    try:
        with (
            _decompressed(archive) as plain,
            tarfile.open(fileobj=_Bounded(plain, limits.total_bytes), mode="r|", tarinfo=BoundedHeader) as tar,
        ):
            for number, member in enumerate(tar):
                if number >= limits.members:
                    raise ArchiveError(f"it has more than {limits.members:,} members")
                if member.isdir():
                    continue
                name, reason = member_name(member.name), ""
                if not is_plain_path(name) or member.name.startswith("/"):
                    reason = "its name leads out of the folder"
                elif not member.isreg() or member.issparse():
                    reason = "it is no regular file but a link or a device"
                elif name in names:
                    if member.size > limits.member_bytes:
                        reason = f"it has {member.size:,} bytes, more than {limits.member_bytes:,}"
                    else:
                        paths = names.pop(name)
                        reason = _extract(tar, member, paths, check)
                        done.written += 0 if reason else len(paths)
                if reason:
                    done.refused.append((member.name, reason))
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, gzip.BadGzipFile):
            raise
        raise ArchiveError(f"it is damaged: {error}") from None
    return done


def _extract(tar: tarfile.TarFile, member: tarfile.TarInfo, paths: Sequence[Path], check: Callable[[Path], str]) -> str:
    """Write a member to each of the paths, and return what is wrong with it."""
    file = tar.extractfile(member)
    assert file is not None  # a regular file has a body
    try:
        with file, atomic_file(paths[0]) as temporary:
            with temporary.open("wb") as out:
                shutil.copyfileobj(file, out, _BLOCK)
            if wrong := check(temporary):
                raise _Wrong(wrong)
    except _Wrong as reason:
        return str(reason)
    for path in paths[1:]:
        with atomic_file(path) as temporary:
            shutil.copyfile(paths[0], temporary)
    return ""


class _Wrong(Exception):
    """A member that does not pass the check: nothing is written."""


def _decompressed(archive: Path) -> io.BufferedIOBase:
    with archive.open("rb") as file:
        start = file.read(3)
    if start[:2] == b"\x1f\x8b":
        return gzip.GzipFile(archive)
    return bz2.BZ2File(archive) if start == b"BZh" else archive.open("rb")


class _Bounded(io.RawIOBase):
    """Stops a stream after so many bytes, whatever the headers in it say."""

    def __init__(self, file: io.BufferedIOBase, most: int) -> None:
        self._file, self._rest = file, most

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(min(size, _BLOCK) if size >= 0 else _BLOCK)
        self._rest -= len(data)
        if self._rest < 0:
            raise ArchiveError("more bytes come out of it than an archive of articles has")
        return data
