"""SLAKE's masks: ``mask.png`` beside each image, whose values ``mask.txt`` names.

``mask.txt`` has a line for each class, ``1:Liver``; ``mask.png`` holds the number in its first channel, as public
loaders of the set read it. A line may also name a colour, ``255,0,0:Liver``. Data: CC-BY-4.0 (card of BoKelvin/SLAKE).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import Found
from medcap.datasets.published.marked import plain_phrase
from medcap.datasets.published.outlined import BACKGROUND, OutlinedImage, of_values, outlined
from medcap.datasets.published.reading import Tally
from medcap.datasets.published.slake import image_rows
from medcap.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from medcap.data.images.reader import ImageReader

FILE, CLASSES = "mask.png", "mask.txt"
NO_FILE, BAD_FILE, NO_NAME = f"there is no {FILE}", f"{FILE} cannot be read", f"values that {CLASSES} does not name"
_META = {"modality": "modality", "organ": "location"}
_LINE = re.compile(r"\s*(?P<key>[^:]+?)\s*[:\t]\s*(?P<name>.+?)\s*$")


def read_classes(path: Path) -> dict[tuple[int, ...], str]:
    """Read the names of the values.

    Args:
        path: ``mask.txt``.

    Returns:
        Phrase of each value, ``(1,)``, or colour, ``(255, 0, 0)``.

    Raises:
        UserError: if the file cannot be read, or a line is neither.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    classes: dict[tuple[int, ...], str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        match = _LINE.match(line)
        key = tuple(map(int, re.findall(r"\d+", match["key"]))) if match else ()
        if match is None or len(key) not in (1, 3):
            raise UserError(f"{path}, line {number}: expected a value or a colour and a name, as in 1:Liver")
        classes[key] = plain_phrase(match["name"])
    return classes


def images(
    found: Found, folders: list[Path], classes: Mapping[tuple[int, ...], str], tally: Tally
) -> Iterator[OutlinedImage]:
    """Read the masks of the images that a split's questions are about.

    Args:
        found: ``train.json``, ``validate.json`` or ``test.json``, by which the images are divided.
        folders: folders that the images may be in.
        classes: what :func:`read_classes` returned.
        tally: counts each ``mask.png``, and those that are missing or damaged.
    """
    from medcap.data.images.reader import ImageReader

    reader = ImageReader(folder for folder in folders if folder.is_dir())
    for name, row in image_rows(found, tally).items():
        tally.read += 1
        places = [folder / PurePosixPath(name).parent / FILE for folder in folders]
        path = next((place for place in places if place.is_file()), None)
        if path is None:
            tally.skip(NO_FILE, str(places[0]))
            continue
        try:
            masks, unknown = _masks(path, reader, classes)
            if unknown:
                tally.skip(NO_NAME, f"{path}: {', '.join(map(str, unknown[:8]))}")
            meta = {key: field_text(row.get(field)) for key, field in _META.items() if field_text(row.get(field))}
            yield outlined(str(path), (name,), masks, meta=meta)
        except UserError as error:
            tally.skip(BAD_FILE, f"{path}: {error}")


def _masks(
    path: Path, reader: ImageReader, classes: Mapping[tuple[int, ...], str]
) -> tuple[list[tuple[str, np.ndarray]], list[int]]:
    """Return phrase and mask of each class, and the values that are no class."""
    import numpy as np

    colours = {key: name for key, name in classes.items() if len(key) == 3 and name.lower() != BACKGROUND}
    if colours:
        picture = np.asarray(reader.open(path))  # [H, W, 3]
        return [(name, (picture == key).all(axis=2)) for key, name in colours.items()], []
    try:
        values = reader.stored_values(path).values
    except UserError:  # channels that differ
        values = np.asarray(reader.open(path))[..., 0]
    return of_values(values, {key[0]: name for key, name in classes.items()})
