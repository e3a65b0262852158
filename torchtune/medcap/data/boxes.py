"""Boxes that an answer names in its text, in the two notations that medical data sets are written in."""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_BOXES = 100

# ColonINST: whole pixels of the original image.
_PIXELS = re.compile(r"\{\s*<(\d{1,6})>\s*<(\d{1,6})>\s*<(\d{1,6})>\s*<(\d{1,6})>\s*\}")
# Qwen-VL's notation, which BiRD (Med-GRIT) uses: thousandths of the image's width and height.
_THOUSANDTHS = re.compile(
    r"(?:<ref>(?P<name>[^<]{0,200})</ref>\s*)?<box>\s*\((\d{1,4}),\s*(\d{1,4})\),\s*\((\d{1,4}),\s*(\d{1,4})\)\s*</box>"
)


@dataclass(frozen=True)
class Box:
    """A rectangle on an image.

    Attributes:
        edges: left, top, right and bottom in shares of the image's width and height, 0 to 1.
        label: what it shows, as far as the text says so.
    """

    edges: tuple[float, float, float, float]
    label: str = ""


def find_boxes(text: str, width: int, height: int) -> list[Box]:
    """Find the boxes in an answer.

    Args:
        text: the answer; ``{<644><498><1039><1016>}`` holds pixels, ``<ref>liver</ref><box>(178,280),(803,894)</box>``
            thousandths.
        width: width of the original image in pixels.
        height: height of the image, in pixels.

    Returns:
        The boxes in their order, cut at the image's edges; a box that is not a rectangle within the image is left out.
    """
    found = [
        (match.start(), _box(match.groups(), (width, height, width, height), "")) for match in _PIXELS.finditer(text)
    ]
    for match in _THOUSANDTHS.finditer(text):
        label = (match.group("name") or "").strip()
        found.append((match.start(), _box(match.groups()[1:], (1000,) * 4, label)))
    return [box for _, box in sorted(found, key=lambda pair: pair[0]) if box is not None][:MAX_BOXES]


def _box(numbers: tuple[str, ...], scales: tuple[int, ...], label: str) -> Box | None:
    left, top, right, bottom = (min(1.0, int(number) / scale) for number, scale in zip(numbers, scales, strict=True))
    return Box((left, top, right, bottom), label) if left < right and top < bottom else None
