"""What a box is, and the form that JSON files have of it."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from medcap.errors import UserError

Size = tuple[int, int]  # width and height of the original image in pixels
_KEYS = ("box", "label", "image")
Edges = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Box:
    """A rectangle on an image.

    Attributes:
        edges: left, top, right and bottom in shares of the original image's width and height, 0 to 1. In a file of
            answers that does not say the image's size they are in the file's own unit.
        label: what it shows, as far as the text says so.
        image: number of the image among those of its conversation, from 0.
    """

    edges: Edges
    label: str = ""
    image: int = 0

    def pixels(self, size: Size) -> Edges:
        """Return left, top, right and bottom in pixels of the original image; right and bottom lie outside the box."""
        left, top, right, bottom = self.edges
        return left * size[0], top * size[1], right * size[0], bottom * size[1]


@dataclass(frozen=True)
class AbsentBox:
    """The box of something that an answer names and the image does not show.

    Attributes:
        label: what is not there.
        image: number of the image among those of its conversation, from 0.
    """

    label: str = ""
    image: int = 0


def named_boxes_from_json(value: Any, size: Size | None, name: str = "boxes") -> tuple[Box | AbsentBox, ...]:
    """Read the boxes of a row in which ``null``, also as an object's ``box``, stands for what is not there.

    Args:
        value: otherwise as :func:`boxes_from_json` takes it.
        size: of the original image; None keeps the numbers as they are.
        name: name of the field, for messages.

    Returns:
        The boxes in their order.

    Raises:
        UserError: as :func:`boxes_from_json` does.
    """
    return tuple(_named(entry, size, name) for entry in listed_boxes(value, name))


def boxes_from_json(value: Any, size: Size | None, name: str = "boxes") -> tuple[Box, ...]:
    """Read the boxes of a row.

    Args:
        value: a list of ``[x1, y1, x2, y2]`` in pixels, or of ``{"box": [x1, y1, x2, y2], "label": "liver"}``; an
            object may also hold ``image``, the number of its image among those of the conversation, from 0. Four
            numbers alone are one box.
        size: of the original image; None keeps the numbers as they are.
        name: name of the field, for messages.

    Returns:
        The boxes in their order.

    Raises:
        UserError: for anything else: no list, not four finite numbers, right or bottom not beyond left and top.
    """
    boxes = tuple(_named(entry, size, name) for entry in listed_boxes(value, name))
    return tuple(_there(box, name) for box in boxes)


def boxes_as_json(boxes: Iterable[Box], size: Size | None) -> list[Any]:
    """Return boxes as a row holds them, the inverse of :func:`boxes_from_json`; pixels have two decimals."""
    rows = []
    for box in boxes:
        numbers = [round(edge, 2) for edge in box.pixels(size)] if size else list(box.edges)
        more = {name: value for name, value in (("label", box.label), ("image", box.image)) if value}
        rows.append({"box": numbers, **more} if more else numbers)
    return rows


def listed_boxes(value: Any, name: str = "boxes") -> list[Any]:
    """Return the entries of a list of boxes, unchecked; four numbers that are not in a list of their own are one entry.

    Raises:
        UserError: if it is not a list.
    """
    if not isinstance(value, list):
        raise UserError(f"'{name}' must be a list of boxes [x1, y1, x2, y2], not {type(value).__name__}")
    return [value] if four_numbers(value) is not None else value


def size_from_json(value: Any) -> Size | None:
    """Read an image's width and height in pixels, as ``image_size`` of a row holds them; 512.0 is read as 512.

    Returns:
        Width and height; None for null.

    Raises:
        UserError: for anything else than two whole numbers above 0.
    """
    if value is None:
        return None
    sides = list(value) if isinstance(value, list | tuple) else []
    whole = [side for side in sides if isinstance(side, int | float) and not isinstance(side, bool) and side > 0]
    if len(sides) != 2 or len(whole) != 2 or not all(float(side).is_integer() for side in whole):
        raise UserError(f"'image_size' must be [width, height] in pixels, not {str(value)[:40]}")
    return int(whole[0]), int(whole[1])


def pixels_of(given: Any, size: Size) -> Size:
    """Return the width and height that a row's pixels count.

    Args:
        given: the row's ``image_size``; None where it has none.
        size: width and height of the image file.

    Returns:
        What is given, for pixels of a copy of another size; otherwise the file's.

    Raises:
        UserError: if it is no size, or that of an image of another shape.
    """
    unit = size_from_json(given)
    if unit is not None and not same_shape(unit, size):
        raise UserError(
            f"'image_size' is {unit[0]} x {unit[1]}, but the image is {size[0]} x {size[1]}, which is another shape:"
            " correct it, or leave it out for pixels of the file"
        )
    return unit or size


def same_shape(one: Size, other: Size) -> bool:
    """Return whether an image of one size may be a resized copy of an image of the other."""
    height = one[1] * other[0] / one[0]
    return abs(height - other[1]) <= max(1.5, 0.01 * other[1])


def _there(box: Box | AbsentBox, name: str) -> Box:
    if isinstance(box, AbsentBox):
        raise UserError(f"'{name}' holds null, which is no box here: a box is four numbers [x1, y1, x2, y2]")
    return box


def _named(entry: Any, size: Size | None, name: str) -> Box | AbsentBox:
    label, image = "", 0
    if isinstance(entry, dict):
        _check_keys(entry, name)
        label, image, entry = str(entry.get("label") or ""), entry.get("image", 0), entry.get("box", {})
    if not isinstance(image, int) or isinstance(image, bool) or image < 0:
        raise UserError(f"'{name}' holds image {str(image)[:60]}: images have whole numbers from 0")
    if entry is None:
        return AbsentBox(label, image)
    numbers = four_numbers(entry)
    if numbers is None:
        raise UserError(f"'{name}' holds {str(entry)[:60]}: a box is four numbers [x1, y1, x2, y2]")
    left, top, right, bottom = numbers
    if not (left < right and top < bottom):
        raise UserError(f"'{name}' holds {str(entry)[:60]}, which has no area: x1 < x2 and y1 < y2 are needed")
    width, height = size or (1, 1)
    return Box((left / width, top / height, right / width, bottom / height), label, image)


def _check_keys(entry: dict[Any, Any], name: str) -> None:
    """See that an object has its box, and name the key that is probably meant as it."""
    if "box" in entry:
        return
    near = [
        key for key in map(str, entry) if key not in _KEYS and difflib.get_close_matches(key, _KEYS, n=1) == ["box"]
    ]
    hint = f"write 'box' instead of '{near[0]}'" if near else f"its keys are {', '.join(_KEYS)}"
    raise UserError(f"'{name}' holds {str(entry)[:60]}, an object without 'box': {hint}")


def four_numbers(entry: Any) -> Edges | None:
    """Return the four finite numbers of a JSON value, which may be written as text; None for anything else."""
    if not isinstance(entry, Sequence) or isinstance(entry, str) or len(entry) != 4:
        return None
    if not all(isinstance(number, int | float | str) and not isinstance(number, bool) for number in entry):
        return None
    try:
        left, top, right, bottom = map(float, entry)
    except (ValueError, OverflowError):
        return None
    return (left, top, right, bottom) if all(map(math.isfinite, (left, top, right, bottom))) else None
