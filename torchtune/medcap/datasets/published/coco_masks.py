"""The masks in files in COCO's format: ``segmentation`` of an annotation, polygons or a run-length.

Format: https://cocodataset.org/#format-data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from medcap.data.boxes.box import Size
from medcap.data.regions.region import region_from_json
from medcap.data.regions.run_length import decode
from medcap.datasets.published.coco import MANY_IMAGES, NO_IMAGE, SAME_ID, image_ids, image_size, is_object
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.marked import plain_phrase
from medcap.datasets.published.outlined import OutlinedImage, outlined
from medcap.datasets.published.reading import Tally
from medcap.errors import UserError

if TYPE_CHECKING:
    import numpy as np

BAD_MASK = "an annotation whose 'segmentation' cannot be read"


def images(path: Path, parts: Mapping[str, list[Any]], tally: Tally, patient_key: str = "") -> Iterator[OutlinedImage]:
    """Read the images with the masks of their categories; several annotations of one category are one object.

    Args:
        path: the file, for messages.
        parts: what :func:`medcap.datasets.published.coco.read` returned.
        tally: counts images, and annotations that cannot be used.
        patient_key: field of an image that says whose it is.
    """
    names = {entry.get("id"): field_text(entry.get("name")) for entry in parts["categories"] if is_object(entry)}
    ids = image_ids(parts)
    marks: dict[Any, list[tuple[str, Any, str]]] = {}
    for number, entry in enumerate(parts["annotations"]):
        location = f"{path}, annotation {number}"
        if not is_object(entry) or ids[entry.get("image_id")] != 1:
            tally.skip(MANY_IMAGES if is_object(entry) and ids[entry.get("image_id")] else NO_IMAGE, location)
        elif not names.get(entry.get("category_id")):
            tally.skip("an annotation without a known category", location)
        elif not entry.get("segmentation"):
            tally.skip("an annotation without 'segmentation'", location)
        else:
            phrase = plain_phrase(names[entry["category_id"]])
            marks.setdefault(entry["image_id"], []).append((phrase, entry["segmentation"], location))
    for number, entry in enumerate(parts["images"]):
        tally.read += 1
        location = f"{path}, image {number}"
        name = field_text(entry.get("file_name")) if is_object(entry) else ""
        size = image_size(entry) if name else None
        if not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
            tally.skip("an image without a usable 'file_name'", location)
        elif ids[entry.get("id")] > 1:
            tally.skip(SAME_ID, location)
        elif size is None:
            tally.skip("an image without 'width' and 'height'", location)
        else:
            masks = _masks(marks.get(entry.get("id"), []), size, tally)
            patient = field_text(entry.get(patient_key)) if patient_key else ""
            try:
                yield outlined(location, (name,), masks, patient)
            except UserError as error:
                tally.skip(str(error), location)


def _masks(marks: list[tuple[str, Any, str]], size: Size, tally: Tally) -> Iterator[tuple[str, np.ndarray]]:
    for phrase, value, location in marks:
        try:
            yield phrase, _mask(value, size)
        except UserError as error:
            tally.skip(BAD_MASK, f"{location}: {error}")


def _mask(value: Any, size: Size) -> np.ndarray:
    import numpy as np

    from medcap.data.regions.draw import draw_region

    if isinstance(value, Mapping):
        return decode(value, "segmentation")
    mask = np.zeros((size[1], size[0]), bool)
    for numbers in value if isinstance(value, list) else [value]:
        if not isinstance(numbers, list) or len(numbers) % 2:
            raise UserError(f"'segmentation' holds {str(numbers)[:60]}: a polygon is numbers x1, y1, x2, y2, ...")
        points = [list(point) for point in zip(numbers[::2], numbers[1::2], strict=True)]
        mask |= draw_region(region_from_json({"polygon": points}, "segmentation"), size, may_be_empty=True)
    return mask
