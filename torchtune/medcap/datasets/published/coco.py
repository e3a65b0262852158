"""Files in COCO's format: ``images``, ``annotations`` with ``bbox`` (x, y, width, height in pixels), ``categories``.

Format: https://cocodataset.org/#format-data. MS-CXR's JSON file is one, with ``label_text`` in its annotations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from medcap.data.boxes.box import Size
from medcap.data.json_text import JsonError, parse_json
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.marked import MarkedImage, check_pixels, corners, gather, plain_phrase, size_of_fields
from medcap.datasets.published.reading import Tally
from medcap.errors import UserError

NO_IMAGE = "an annotation of an image that is not in the file"
MANY_IMAGES = "an annotation of an id that several images have"
SAME_ID = "an image whose id another one has, too"
_PARTS = ("images", "annotations", "categories")


def read(path: Path) -> dict[str, list[Any]]:
    """Read a file.

    Returns:
        Its three lists.

    Raises:
        UserError: if it cannot be read, or lacks one.
    """
    try:
        value = parse_json(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, JsonError) as error:
        table = "; a CSV file is read by medcap prepare csv-boxes" if path.suffix in (".csv", ".tsv") else ""
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path} cannot be read as JSON: {reason}{table}") from error
    for part in _PARTS:
        if not isinstance(value, Mapping) or not isinstance(value.get(part), list):
            raise UserError(f"{path} is not in COCO's format: it has no list '{part}'")
    return {part: value[part] for part in _PARTS}


def images(
    path: Path, parts: Mapping[str, list[Any]], tally: Tally, phrase_key: str | None = None, patient_key: str = ""
) -> Iterator[MarkedImage]:
    """Read the images with their objects.

    Args:
        path: the file, for messages.
        parts: what :func:`read` returned.
        tally: counts images, and annotations that cannot be used.
        phrase_key: field of an annotation with the words that are asked for; None for the name of its category.
        patient_key: field of an image that says whose it is.
    """
    names = {entry.get("id"): field_text(entry.get("name")) for entry in parts["categories"] if is_object(entry)}
    marks: dict[Any, list[tuple[str, Any]]] = {}
    kinds: dict[str, frozenset[str]] = {}
    ids = image_ids(parts)
    for number, entry in enumerate(parts["annotations"]):
        location = f"{path}, annotation {number}"
        if not is_object(entry):
            tally.skip("an annotation is not an object", location)
        elif ids[entry.get("image_id")] != 1:
            tally.skip(NO_IMAGE if not ids[entry.get("image_id")] else MANY_IMAGES, location)
        elif not names.get(entry.get("category_id")):
            tally.skip("an annotation without a known category", location)
        elif entry.get("iscrowd"):
            tally.skip("an annotation of a crowd", location)
        else:
            category = names[entry["category_id"]]
            phrase = " ".join(field_text(entry.get(phrase_key)).split()) if phrase_key else plain_phrase(category)
            if not phrase:
                tally.skip(f"an annotation without '{phrase_key}'", location)
                continue
            marks.setdefault(entry["image_id"], []).append((phrase, corners(entry.get("bbox"))))
            kinds[phrase] = kinds.get(phrase, frozenset()) | {category}
    check_pixels(((str(path), (box for _, box in its)) for its in marks.values()), "COCO's boxes are pixels")
    for number, entry in enumerate(parts["images"]):
        tally.read += 1
        location = f"{path}, image {number}"
        name = field_text(entry.get("file_name")) if is_object(entry) else ""
        if not name or name.startswith("/") or ".." in PurePosixPath(name).parts:
            tally.skip("an image without a usable 'file_name'", location)
            continue
        if ids[entry.get("id")] > 1:
            tally.skip(SAME_ID, location)
            continue
        patient = field_text(entry.get(patient_key)) if patient_key else ""
        yield MarkedImage(location, (name,), gather(marks.get(entry.get("id"), ()), kinds), image_size(entry), patient)


def image_ids(parts: Mapping[str, list[Any]]) -> Counter[Any]:
    """Return how many images have each id."""
    ids = (entry.get("id") for entry in parts["images"] if is_object(entry))
    return Counter(name for name in ids if name is not None)


def is_object(entry: Any) -> bool:
    """Return whether an entry is an object whose ids can be looked up."""
    return isinstance(entry, Mapping) and all(not isinstance(entry.get(key), list | dict) for key in ("id", "image_id"))


def image_size(entry: Mapping[str, Any]) -> Size | None:
    """Return an image's width and height; None where the file does not say them."""
    return size_of_fields(entry.get("width"), entry.get("height"))
