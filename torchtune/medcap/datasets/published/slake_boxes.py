"""SLAKE's boxes: ``detection.json`` beside each image names its organs and lesions with their boxes.

The file is a list of objects, each a label and ``[x, y, width, height]`` in pixels:
``[{"Left Lung": [300.0, 128.0, 145.0, 260.0]}, {"Heart": [210.0, 250.0, 120.0, 110.0]}]``. The layout of the folders is
that of the card of the hub's copy Voxel51/SLAKE and of MiniMedMind/SLAKE_en; the order of the numbers is that of a
public conversion to YOLO ("[x, y, width, height], pixel coordinates"). Data: CC-BY-4.0 (card of BoKelvin/SLAKE).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from medcap.data.json_text import JsonError, parse_json
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import Found
from medcap.datasets.published.marked import MarkedImage, corners, gather, plain_phrase
from medcap.datasets.published.reading import Tally
from medcap.datasets.published.slake import image_rows

FILE = "detection.json"
NO_NAME = "an object has no name"
NO_FILE, NO_JSON, NO_LIST = f"there is no {FILE}", f"{FILE} is not valid JSON", f"{FILE} is not a list of objects"
_META = {"modality": "modality", "organ": "location"}


def images(found: Found, folders: list[Path], tally: Tally) -> Iterator[MarkedImage]:
    """Read the objects of the images that a split's questions are about.

    Args:
        found: ``train.json``, ``validate.json`` or ``test.json``, by which the images are divided.
        folders: folders that the images may be in.
        tally: counts each ``detection.json``, and those that are missing or damaged.
    """
    for name, row in image_rows(found, tally).items():
        tally.read += 1
        places = [folder / PurePosixPath(name).parent / FILE for folder in folders]
        path = next((path for path in places if path.is_file()), None)
        if path is None:
            tally.skip(NO_FILE, str(places[0]))
            continue
        try:
            value = parse_json(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, JsonError):
            tally.skip(NO_JSON, str(path))
            continue
        if not isinstance(value, list) or not all(isinstance(entry, Mapping) for entry in value):
            tally.skip(NO_LIST, str(path))
            continue
        marks = [
            (plain_phrase(str(label)), box) for entry in value for label, each in entry.items() for box in _all(each)
        ]
        if not all(phrase for phrase, _ in marks):
            tally.skip(NO_NAME, str(path))
        marks = [(phrase, corners(box)) for phrase, box in marks if phrase]
        meta = {key: field_text(row.get(field)) for key, field in _META.items() if field_text(row.get(field))}
        yield MarkedImage(str(path), (name,), gather(marks), meta=meta)


def _all(boxes: Any) -> list[Any]:
    """Return the boxes of a label, which is one box or a list of them."""
    return boxes if isinstance(boxes, list) and boxes and all(isinstance(box, list) for box in boxes) else [boxes]
