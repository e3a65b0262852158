"""Rows whose images are prepared: which images they name, and the rows that name the prepared ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from medcap.data.images.reader import ImageReader
from medcap.data.images.resize import SUFFIXES
from medcap.data.images.roots import LimitKeys
from medcap.data.images.view_keys import read_view
from medcap.data.images.views import View
from medcap.data.row_examples import is_example_row
from medcap.data.storage.cache import cache_folder
from medcap.data.storage.tar_files import SEPARATOR
from medcap.datasets.image_names import has_turns, rename_images
from medcap.datasets.preparing.boxes import refuse_moved_boxes
from medcap.datasets.preparing.request import DONE, FAILURES, MAX_BYTES, Request, Summary, ordered
from medcap.datasets.preparing.tasks import Names, Picture, Row, Task, file_tasks, shard_tasks
from medcap.datasets.preparing.worker import Settings
from medcap.datasets.rows.json_file import JsonRows, open_rows
from medcap.errors import UserError
from medcap.files import atomic_file

Failures = list[tuple[str, str]]


@dataclass
class RowPlan:
    """What rows ask for.

    Attributes:
        tasks: tasks for the images, and in shards for the rows.
        reader: opens the images.
        failures: rows and images that are known to be of no use.
        finish: writes the rows next to the pictures, given the first picture of each source; returns further failures.
    """

    tasks: Iterable[Task]
    reader: ImageReader
    failures: Failures
    finish: Callable[[dict[str, str]], Failures] | None


def plan_rows(request: Request, out: Path, summary: Summary) -> RowPlan:
    """Find out which images rows need.

    Args:
        request: request with one file of rows as its source.
        out: where the rows go.
        summary: gets the number of images, and of rows where it is known.

    Returns:
        The plan.

    Raises:
        UserError: if the rows cannot be read, or ask for what a row cannot name.
    """
    if len(request.sources) > 1:
        raise UserError("--source takes one file of rows: prepare the others by commands of their own")
    if request.settings.view.has_several_frames:
        raise UserError(
            f"--frames {request.settings.view.frames} makes several pictures of an image, and a row names one: give"
            " middle or a number"
        )
    source = request.sources[0]
    target = out / f"{source.stem}.jsonl"
    if target.name in (DONE, FAILURES):
        raise UserError(f"--source {source}: rename it, {target.name} in {out} has another meaning")
    rows = open_rows(source)
    reader = ImageReader(
        [rows.path.parent, Path.cwd(), *request.image_roots],
        request.max_pixels,
        MAX_BYTES,
        cache_folder(),
        LimitKeys("--image-root", "--max-pixels"),
    )
    found = _NamedImages(rows, reader, request.limit, request.settings)
    summary.rows = 0
    if request.shards:
        suffix = SUFFIXES[request.settings.file_format]
        groups = [list(_samples(found, group, suffix)) for group in ordered(found.groups(), request.shuffle)]
        groups = [group for group in groups if group]
        summary.sources = sum(isinstance(entry, Picture) for group in groups for entry in group)
        return RowPlan(shard_tasks(groups, request.shard_size), reader, found.failures, None)
    names = Names()
    pictures = [
        Picture(image.path, names.take("images/" + _relative(image.path, reader)), image.view) for image in found.images
    ]
    summary.sources = len(pictures)

    def finish(prepared: dict[str, str]) -> Failures:
        failures: Failures = []
        with atomic_file(target) as temporary, temporary.open("w", encoding="utf-8") as file:
            for index in found.usable():
                missing = [name for name in map(str, found.of_row(index)) if name not in prepared]
                if missing:
                    failures.append((rows.name(index), f"its image {missing[0]} could not be prepared"))
                    continue
                row = found.renamed(index, lambda image: prepared[str(image)])
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                summary.rows = (summary.rows or 0) + 1
        return failures

    return RowPlan(file_tasks(pictures), reader, found.failures, finish)


@dataclass(frozen=True)
class NamedImage:
    """An image that rows name; ``str`` is what is noted of its picture.

    Attributes:
        path: as an ``ImageReader`` resolves it.
        view: how rows look at it; None as the command says.
    """

    path: str
    view: View | None

    def __str__(self) -> str:
        return Picture(self.path, "", self.view).name


class _NamedImages:
    """The images that rows name.

    Attributes:
        rows: the rows.
        images: the images, each once, in the order of the rows.
        failures: rows that cannot be read, or name an image that does not exist.
    """

    def __init__(self, rows: JsonRows, reader: ImageReader, limit: int | None, settings: Settings) -> None:
        self.rows = rows
        self._reader = reader
        self._view = settings.view
        self._numbers: dict[NamedImage, int] = {}
        self._of_row: list[tuple[int, ...] | None] = []
        self.failures: Failures = []
        for index in range(min(len(rows), len(rows) if limit is None else limit)):
            named: list[NamedImage] = []
            try:
                row = self.renamed(index, lambda image, named=named: named.append(image) or "")  # type: ignore[misc]
            except UserError as error:
                self.failures.append((rows.name(index), str(error)))
                self._of_row.append(None)
                continue
            if named:
                refuse_moved_boxes(row, rows.name(index), settings)
            self._of_row.append(tuple(self._numbers.setdefault(image, len(self._numbers)) for image in named))
        self.images = list(self._numbers)

    def usable(self) -> Iterator[int]:
        """Return the rows that did not fail."""
        return (index for index, numbers in enumerate(self._of_row) if numbers is not None)

    def of_row(self, index: int) -> list[NamedImage]:
        """Return the images that a row names, in its order."""
        return [self.images[number] for number in self._of_row[index] or ()]

    def renamed(self, index: int, rename: Callable[[NamedImage], str]) -> dict[str, Any]:
        """Return a row with its images called as ``rename`` says, and without the keys that made them."""

        def renamed(name: str, folder: str | None, keys: Mapping[str, Any]) -> str:
            view = replace(
                read_view(keys, self._view), fit=None
            )  # the row keeps its fit, which is the tower's business
            if view.has_several_frames:
                raise UserError(
                    f"{name} means several pictures (frames={view.frames}), and a row names one: give it one frame"
                )
            path = str(self._reader.resolve(name, folder))
            return rename(NamedImage(path, None if view == self._view else view))

        row = self.rows.read(index)
        if is_example_row(row):
            raise UserError("its examples have masks, which fit the images as they are: images of such rows stay")
        return rename_images(row, renamed, keep_views=False)

    def groups(self) -> list[list[int]]:
        """Group rows by their first image, in the order of first appearance; a text row is a group of its own."""
        groups: dict[tuple[str, int], list[int]] = {}
        for index in self.usable():
            numbers = self._of_row[index]
            groups.setdefault(("image", numbers[0]) if numbers else ("text", index), []).append(index)
        return list(groups.values())


def _samples(found: _NamedImages, group: list[int], suffix: str) -> Iterator[Picture | Row]:
    """Yield samples of a shard: an image comes before the first row that shows it alone; later rows only name it."""
    shared: dict[NamedImage, str] = {}
    for index in group:
        if not has_turns(found.rows.read(index)):
            reason = "it has no conversations and no messages, which rows in shards need: use --format png or jpeg"
            found.failures.append((found.rows.name(index), reason))
            continue
        images = list(dict.fromkeys(found.of_row(index)))
        stems: dict[NamedImage, str] = {}
        for position, image in enumerate(images):
            if image in shared:
                stems[image] = shared[image]
                continue
            # [Contract] a row of several images may have to be left out with all of them, so no other relies on it.
            stems[image] = f"{index:09d}" if len(images) == 1 else f"{index:09d}.{position}"
            if len(images) == 1:
                shared[image] = stems[image]
            yield Picture(image.path, stems[image], image.view)
        row = found.renamed(index, lambda image, stems=stems: stems[image] + suffix)  # type: ignore[misc]
        text = json.dumps(row, ensure_ascii=False)
        yield Row(found.rows.name(index), f"{index:09d}.json", text, tuple(stems.values()))


def _relative(path: str, reader: ImageReader) -> str:
    """Return an image's path in the innermost of the roots that holds it; a member's name in its tar."""
    tars = [f"{root}{SEPARATOR}" for root in reader.roots if path.startswith(f"{root}{SEPARATOR}")]
    if tars:
        # A name in a tar may climb; in the output it may not.
        return "/".join(part for part in path[len(tars[0]) :].split("/") if part not in ("", ".", ".."))
    inside = [root for root in reader.roots if Path(path).is_relative_to(root)]
    return Path(path).relative_to(max(inside, key=lambda root: len(root.parts))).as_posix()
