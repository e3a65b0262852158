"""One task of preparing images, from its sources to its file; imported by every worker process, so without torch."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.resize import SUFFIXES, encode, fit, pad_wide
from medcap.data.images.views import View
from medcap.data.storage.tar_files import SEPARATOR
from medcap.datasets.preparing.tasks import Picture, Row, Task
from medcap.errors import UserError, is_of_the_machine
from medcap.files import atomic_file


@dataclass(frozen=True)
class Settings:
    """How pictures are made.

    Attributes:
        size: side in pixels; None keeps the size.
        fit: one of ``medcap.data.images.resize.FITS``.
        pad_above: ratio of the sides above which a picture is padded to a square; 0 never.
        file_format: ``png`` or ``jpeg``.
        view: which frames and which window.
    """

    size: int | None = None
    fit: str = "crop"
    pad_above: float = 1.8
    file_format: str = "png"
    view: View = field(default_factory=View)


@dataclass(frozen=True)
class Outcome:
    """What became of a task.

    Attributes:
        name: the task's.
        fingerprint: the task's.
        pictures: each source that could be prepared, with the names of its pictures.
        rows: how many rows were written.
        failures: what could not be prepared, with the reason.
    """

    name: str
    fingerprint: str
    pictures: list[tuple[str, list[str]]]
    rows: int
    failures: list[tuple[str, str]]


class Worker:
    """Does tasks; it is handed to other processes.

    Args:
        reader: opens the images.
        settings: how pictures are made.
        out: folder to write into.
    """

    def __init__(self, reader: ImageReader, settings: Settings, out: Path) -> None:
        self.reader = reader
        self.settings = settings
        self.out = out

    def run(self, task: Task) -> Outcome:
        """Do a task: afterwards its file is there as a whole, or not at all.

        Args:
            task: any.

        Returns:
            The result; an image that cannot be read is a failure in it, whatever its decoder raises.

        Raises:
            UserError: if the file cannot be written.
        """
        outcome = Outcome(task.name, task.fingerprint(), [], 0, [])
        try:
            return self._shard(task, outcome) if task.is_shard else self._files(task, outcome)
        except OSError as error:
            raise UserError(f"--out {self.out} cannot be written: {error.strerror or error}") from error

    def survives(self, source: str) -> bool:
        """Read an image for its effect on this process alone; a process that it kills never returns."""
        self._make(Picture(source, "probe"), Outcome("", "", [], 0, []))
        return True

    def _files(self, task: Task, outcome: Outcome) -> Outcome:
        for picture in task.entries:
            assert isinstance(picture, Picture)
            # All frames are made before the first is written: no series is there in part because a frame is damaged.
            made = self._make(picture, outcome)
            for name, content in made:
                with atomic_file(self.out / name) as temporary:
                    temporary.write_bytes(content)
            if made:
                outcome.pictures.append((picture.name, [name for name, _ in made]))
        return outcome

    def _shard(self, task: Task, outcome: Outcome) -> Outcome:
        has_rows = any(isinstance(entry, Row) for entry in task.entries)
        rows = 0
        written: set[str] = set()
        held: list[tuple[Picture, list[tuple[str, bytes]]]] = []
        with (
            atomic_file(self.out / task.name) as temporary,
            tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar,
        ):
            for entry in task.entries:
                if isinstance(entry, Picture):
                    held.append((entry, self._make(entry, outcome)))
                    if has_rows:
                        continue
                # A row's pictures wait for it: without it, they would be a sample without text.
                stems = written | {picture.stem for picture, made in held if made}
                if isinstance(entry, Row) and not stems.issuperset(entry.stems):
                    outcome.failures.append((entry.name, "an image that it names could not be prepared"))
                    held.clear()
                    continue
                for picture, made in held:
                    for name, content in made:
                        _add(tar, name, content)
                    if made:
                        outcome.pictures.append((picture.name, [f"{task.name}{SEPARATOR}{name}" for name, _ in made]))
                        written.add(picture.stem)
                held.clear()
                if isinstance(entry, Row):
                    _add(tar, entry.member, entry.text.encode())
                    rows += 1
        return replace(outcome, rows=rows)

    def _make(self, picture: Picture, outcome: Outcome) -> list[tuple[str, bytes]]:
        """Return the names and contents of a source's pictures; none, and a failure noted, if it cannot be read."""
        try:
            return list(self._pictures(picture))
        except UserError as error:
            reason = str(error).removeprefix(f"image {picture.source} ")
        except Exception as error:  # a decoder may raise anything; one image must not end a run over a million
            if is_of_the_machine(error):
                raise
            reason = f"cannot be prepared: {type(error).__name__}: {error}"
        outcome.failures.append((picture.source, " ".join(reason.split())))
        return []

    def _pictures(self, picture: Picture) -> Iterator[tuple[str, bytes]]:
        settings = self.settings
        path = self.reader.resolve(picture.source)
        view = picture.view or settings.view
        suffix = SUFFIXES[settings.file_format]
        for number, opened in self.reader.open_frames(ImageRef(str(path), view)):
            try:
                fitted = fit(pad_wide(opened, settings.pad_above), settings.size, settings.fit)
            except UserError as error:
                raise UserError(f"image {path} {error}") from error
            several = number is not None and view.has_several_frames
            name = f"{picture.stem}/{number:04d}{suffix}" if several else picture.stem + suffix
            yield name, encode(fitted, settings.file_format)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    # A TarInfo has no time and no owner of its own: the same contents make the same tar.
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))
