"""The table of members of tar files, made by walking headers."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
from tqdm import tqdm

from medcap.errors import UserError

_COMPRESSED_STARTS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18")
_EXTENDED_TYPES = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)
_MAX_EXTENDED_BYTES = 2**20
_THREADS = 8
_Walk = tuple[np.ndarray, np.ndarray, np.ndarray, list[bytes], bytes]


def member_name(name: str) -> str:
    """Return the form in which members are looked up: no empty and no ``.`` components, as in a ``Path``."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def hash_name(encoded: bytes) -> np.uint64:
    """Return a hash of a name that is the same in every process and on every machine."""
    return np.uint64(int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little"))


class BoundedHeader(tarfile.TarInfo):
    """A header that may not claim sizes which would make tarfile loop or fill the memory."""

    @classmethod
    def frombuf(cls, buf: bytes, encoding: str, errors: str) -> tarfile.TarInfo:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _EXTENDED_TYPES and header.size > _MAX_EXTENDED_BYTES):
            raise tarfile.HeaderError(f"impossible size {header.size}")
        return header


def walk_tars(paths: Sequence[Path]) -> dict[str, np.ndarray]:
    """Make the table of the regular members of tar files by walking their headers.

    Args:
        paths: the tar files.

    Returns:
        By member in the order of the files: ``offsets`` and ``sizes`` int64 [n], bytes; ``name_starts`` int64 [n + 1]
        into ``names`` uint8, UTF-8. For look-ups: ``hashes`` uint64 [n] of names, ascending, and ``by_hash`` int64
        [n], the members that they belong to. By file: ``starts`` int64 [files + 1], the first member of each.
        ``fingerprint`` uint8 [32], SHA-256 of the members' names, sizes and header checksums.

    Raises:
        UserError: if a file is compressed, cut off or damaged.
    """
    walks = tqdm(
        _walk_each(paths),
        total=len(paths),
        desc="indexing tars",
        unit="tar",
        delay=3,
        mininterval=1,
        disable=None,
    )
    tables = list(walks)
    counts = [len(offsets) for offsets, _, _, _, _ in tables]
    starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
    lengths = np.concatenate([table[2] for table in tables] or [np.empty(0, np.int64)])
    hashes = np.fromiter((hash_name(name) for *_, names, _ in tables for name in names), np.uint64, len(lengths))
    # Of members with one name, the last one in the first tar file wins.
    member = np.arange(len(hashes))
    by_hash = np.lexsort((-member, np.repeat(np.arange(len(tables)), counts), hashes)).astype(np.int64)
    identity = hashlib.sha256(b"".join(digest for *_, digest in tables)).digest()
    return {
        "starts": starts,
        "offsets": np.concatenate([table[0] for table in tables] or [np.empty(0, np.int64)]),
        "sizes": np.concatenate([table[1] for table in tables] or [np.empty(0, np.int64)]),
        "name_starts": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "names": np.frombuffer(b"".join(b"".join(names) for *_, names, _ in tables), dtype=np.uint8),
        "hashes": hashes[by_hash],
        "by_hash": by_hash,
        "fingerprint": np.frombuffer(identity, dtype=np.uint8),
    }


def _walk_each(paths: Sequence[Path]) -> Iterator[_Walk]:
    began, worked = time.perf_counter(), time.thread_time()
    yield from map(_walk, paths[:1])
    # A walk is one read after the other. Where each is a round trip over a network, threads make up for it; where
    # the disk is fast they only wait for each other.
    if time.perf_counter() - began < 3 * (time.thread_time() - worked):
        yield from map(_walk, paths[1:])
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        yield from pool.map(_walk, paths[1:])


def _walk(path: Path) -> _Walk:
    """Offsets, sizes and name lengths (int64 [n] each), names, and SHA-256 of the headers."""
    offsets, sizes, names = [], [], []
    digest = hashlib.sha256()
    position = -1
    try:
        with path.open("rb") as file:
            length = os.fstat(file.fileno()).st_size
            start = file.read(8)
            if start.startswith(_COMPRESSED_STARTS):
                raise UserError(f"{path} is a compressed tar: unpack it to a plain .tar, whose members can be found")
            file.seek(0)
            # Names that are not UTF-8 stay printable and different from each other.
            with tarfile.TarFile(
                fileobj=file, mode="r", tarinfo=BoundedHeader, encoding="utf-8", errors="backslashreplace"
            ) as tar:
                while (member := tar.next()) is not None:
                    cast(Any, tar).members.clear()
                    if tar.offset <= position:
                        raise UserError(f"tar file {path} is damaged at byte {position}: make or copy it again")
                    position = tar.offset
                    if not member.isreg() or not (name := member_name(member.name)):
                        continue
                    if member.issparse():
                        raise UserError(f"{path}: member {name} is a sparse file: make the tar without --sparse")
                    if member.offset_data + member.size > length:
                        raise UserError(f"tar file {path} is cut off in member {name}: make or copy it again")
                    encoded = name.encode("utf-8", "surrogatepass")
                    offsets.append(member.offset_data)
                    sizes.append(member.size)
                    names.append(encoded)
                    digest.update(b"%d %d %d " % (len(encoded), member.size, member.chksum) + encoded)
                _check_end(path, file, tar.offset)
    except OSError as error:
        raise UserError(f"tar file {path} cannot be read: {error.strerror or error}") from error
    except (tarfile.TarError, ValueError, ArithmeticError, LookupError, EOFError, RecursionError) as error:
        if position < 0:
            raise UserError(
                f"{path} is not a tar file, or it is cut off or damaged ({error}): make it again"
            ) from error
        raise UserError(f"tar file {path} is cut off or damaged ({error}): make or copy it again") from error
    lengths = np.array([len(name) for name in names], dtype=np.int64)
    return np.array(offsets, dtype=np.int64), np.array(sizes, dtype=np.int64), lengths, names, digest.digest()


def _check_end(path: Path, file: io.BufferedReader, offset: int) -> None:
    # tarfile takes a damaged header for the end, and does not miss the end marker of a file that was cut off
    # between two members: either would lose samples without a word.
    file.seek(offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise UserError(f"tar file {path} is cut off (it has no end marker): make or copy it again")
    if any(block):
        raise UserError(f"tar file {path} is damaged at byte {offset}: make or copy it again")
    while block := file.read(2**20):
        if block.count(0) != len(block):
            raise UserError(f"tar file {path} goes on after its end marker (two files joined?): make it again")
