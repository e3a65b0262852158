"""Which images a data file or a folder holds, of any layout that this project reads, one at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.data.images.reader import IMAGE_KEYS, ImageReader
from medcap.data.images.roots import LimitKeys
from medcap.data.images.row_entry import image_entries
from medcap.data.images.suffixes import SUFFIXES, is_image_file
from medcap.data.row_examples import is_example_row, read_example_row
from medcap.errors import UserError

DATA_SUFFIXES = (".json", ".jsonl", ".ndjson")
_TURNS = ("conversations", "conversatons", "messages")


@dataclass(frozen=True)
class ImageFile:
    """An image that a source names.

    Attributes:
        name: its path, or the row where the path cannot be told.
        problem: the reason why there is no image file of that name; None where there is one.
    """

    name: str
    problem: str | None = None


def list_images(source: str | Path, image_roots: Sequence[str | Path] = ()) -> Iterator[ImageFile]:
    """Go through the images of a source, each once.

    Args:
        source: a folder, searched with all folders in it; or a JSON or JSONL file with chat rows of any layout that
            training reads, or with rows that name their image under one of ``IMAGE_KEYS``.
        image_roots: folders that images of a data file may be in, besides the file's own and the working directory.

    Yields:
        The images, in the order of the file, or of the paths' names in a folder.

    Raises:
        UserError: if the source is missing, of another kind, damaged, or names no image at all.
    """
    path = Path(source)
    if not path.exists():
        raise UserError(f"{path} does not exist: give a data file or a folder of images")
    found = False
    for image in _in_folder(path) if path.is_dir() else _in_rows(path, image_roots):
        found = True
        yield image
    if not found:
        kinds = f"files ending in {', '.join(SUFFIXES)}" if path.is_dir() else f"rows with {', '.join(IMAGE_KEYS)}"
        raise UserError(f"{path} holds no images: expected {kinds}")


def _in_folder(folder: Path) -> Iterator[ImageFile]:
    for location, folders, files in os.walk(folder):
        folders.sort()
        for name in sorted(files):
            if is_image_file(os.path.join(location, name)):
                yield ImageFile(os.path.join(location, name))


def _in_rows(path: Path, image_roots: Sequence[str | Path]) -> Iterator[ImageFile]:
    from medcap.datasets.rows.json_rows import (
        read_rows,  # here, because the processes that only hash import this file too
    )

    if path.suffix.lower() not in DATA_SUFFIXES:
        raise UserError(f"{path} is neither a folder nor a JSON or JSONL file: give the folder of its images")
    reader = ImageReader([path.parent, Path.cwd(), *image_roots], keys=LimitKeys("--image-root", None))
    # A million rows may ask about a tenth as many images; the hash of a path is smaller than the path.
    seen: set[int] = set()
    for index, row in read_rows(path):
        for image in _of_row(row, path, index, reader):
            key = hash(image.name)
            if key not in seen:
                seen.add(key)
                yield image


def _of_row(row: Any, path: Path, index: int, reader: ImageReader) -> list[ImageFile]:
    images: list[ImageFile] = []

    def find(name: str, folder: str | None = None) -> Path:
        try:
            resolved = reader.resolve(name, folder)
        except UserError as error:
            resolved = Path(folder or "", name)
            images.append(ImageFile(str(resolved), str(error)))
        else:
            images.append(ImageFile(str(resolved)))
        return resolved

    try:
        if isinstance(row, Mapping) and any(key in row for key in _TURNS) and not is_example_row(row):
            _read_turns(row, path, index, find)
        elif isinstance(row, Mapping):
            for name in _named(row):
                find(name)
        else:
            raise UserError(f"{path}, row {index}: a row must be an object, not {type(row).__name__}")
    except UserError as error:
        # The images of a row are checked even if its words have a problem.
        if not images:
            return [ImageFile(f"{path}, row {index}", str(error))]
    return images


def _read_turns(row: Mapping[str, Any], path: Path, index: int, find: Callable[[str, str | None], Path]) -> None:
    from medcap.data.row_layouts import read_record

    read_record(row, path, index, find)


def _named(row: Mapping[str, Any]) -> list[str]:
    if is_example_row(row):
        found = read_example_row(row)
        shown = [*(image for image, _ in found.examples), found.image]
        return [name for image in shown for name, _ in image_entries(image or [], "image")]
    field = next((key for key in IMAGE_KEYS if row.get(key)), "image")
    return [name for name, _ in image_entries(row.get(field) or [], field)]
