"""The tasks of preparing images: each is done as a whole and identified by everything that it depends on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medcap.data.images.suffixes import is_image_file, without_suffix
from medcap.data.images.views import View
from medcap.data.storage.tar_files import SEPARATOR
from medcap.errors import UserError


@dataclass(frozen=True)
class Picture:
    """An image to prepare.

    Attributes:
        source: path of the file, or of a member of a tar file, as an ``ImageReader`` resolves it.
        stem: name of what is written for it, without the suffix; a folder of this name where it has several frames.
        view: how it is looked at; None as all.
    """

    source: str
    stem: str
    view: View | None = None

    @property
    def name(self) -> str:
        """What is noted as its source: the path, and its own view where it has one."""
        return self.source if self.view is None else f"{self.source} {self.view}"


@dataclass(frozen=True)
class Row:
    """A row to write into a shard.

    Attributes:
        name: how the list of failures calls it.
        member: its name in the shard.
        text: the row, as JSON.
        stems: stems of the pictures that it names.
    """

    name: str
    member: str
    text: str
    stems: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A picture file, or a shard with its content.

    Attributes:
        name: the shard's file name, or the picture's stem.
        entries: entries in their order.
        is_shard: whether they go into one tar file.
    """

    name: str
    entries: tuple[Picture | Row, ...]
    is_shard: bool

    def fingerprint(self) -> str:
        """Return a number for everything that decides what is written, the sizes and times of the sources included."""
        identity = [
            [entry.name, entry.stem, *_state(entry.source)] if isinstance(entry, Picture) else [*vars(entry).values()]
            for entry in self.entries
        ]
        return hashlib.sha256(json.dumps([self.name, identity]).encode()).hexdigest()[:16]


class Names:
    """Gives every source a name of its own in the output: its own, less the suffix where no other has that name.

    Args:
        folders: names that are taken, because folders have them.
    """

    def __init__(self, folders: Iterable[str] = ()) -> None:
        self._taken = set(folders)

    def take(self, name: str) -> str:
        """Name for a source; where ``scan.dcm`` has ``scan`` already, ``scan.jpg`` keeps its suffix.

        Args:
            name: the source's path in its folder, with ``/``.
        """
        number = 1
        chosen = without_suffix(name)
        while chosen in self._taken:
            chosen = name if number == 1 else f"{name}-{number}"
            number += 1
        self._taken.add(chosen)
        return chosen


def list_folders(folders: Sequence[Path], out: Path) -> tuple[list[Picture], int]:
    """Find the images in folders: files of a known suffix, and files of any name that begin as DICOM files do.

    Args:
        folders: searched with all folders in them; hidden files and folders are left out.
        out: not searched.

    Returns:
        The images in the order of their paths, and how many other files there are.

    Raises:
        UserError: if a folder does not exist.
    """
    found: list[tuple[str, str]] = []
    inner: set[str] = set()
    others = 0
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--source {folder} is neither a folder nor a JSON or JSONL file: correct the name")
        folder = folder.resolve()
        prefix = f"{folder.name}/" if len(folders) > 1 else ""
        for location, inside, files in os.walk(folder):
            inside[:] = sorted(name for name in inside if name[0] != "." and Path(location, name).resolve() != out)
            relative = Path(location).relative_to(folder).as_posix()
            relative = prefix + ("" if relative == "." else f"{relative}/")
            inner.update(relative + name for name in inside)
            for name in sorted(files):
                path = os.path.join(location, name)
                if name[0] != "." and is_image_file(path):
                    found.append((path, relative + name))
                else:
                    others += 1
    names = Names(inner)
    return [Picture(path, names.take(name)) for path, name in found], others


def file_tasks(pictures: Iterable[Picture]) -> Iterator[Task]:
    """Yield a task for each picture."""
    for picture in pictures:
        yield Task(picture.stem, (picture,), is_shard=False)


def shard_tasks(groups: Iterable[Sequence[Picture | Row]], shard_size: int) -> Iterator[Task]:
    """Tasks for shards, filled one after the other.

    Args:
        groups: what must stay in one shard.
        shard_size: entries after which a shard takes no further group; rows are counted where there are any.
    """
    number = count = 0
    entries: list[Picture | Row] = []
    for group in groups:
        entries += group
        count += sum(isinstance(entry, Row) for entry in group) or len(group)
        if count >= shard_size:
            yield Task(f"images-{number:06d}.tar", tuple(entries), is_shard=True)
            number, count, entries = number + 1, 0, []
    if entries:
        yield Task(f"images-{number:06d}.tar", tuple(entries), is_shard=True)


def _state(source: str) -> tuple[int, int]:
    """Size and time of the last change in ns, for a member of a tar file those of the tar; zeros for a missing file."""
    for path in (source, source.partition(SEPARATOR)[0]):
        with contextlib.suppress(OSError):
            found = os.stat(path)
            return found.st_size, found.st_mtime_ns
    return 0, 0
