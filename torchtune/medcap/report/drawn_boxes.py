"""Boxes over a picture in SVG coordinates: the geometry. What is drawn there is in ``gallery.html.j2``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medcap.data.boxes.box import Box, Size

# The room that a page has for a picture with boxes, and the height of their labels there, in CSS pixels.
DRAWN_WIDTH, DRAWN_HEIGHT = 528, 420
LABEL_HEIGHT = 14
# The names of more boxes would hide the picture, and each other: they get numbers, and the names stand below.
MOST_NAMED = 4
# Of an answer that holds hundreds.
_MOST_LISTED = 20
_MOST_CHARACTERS = 32
# Mean width of a letter, in heights.
_LETTER = 0.56


@dataclass(frozen=True)
class RowBoxes:
    """The boxes that a row asks for and those of its answer.

    Attributes:
        expected: reference boxes; empty where the object is absent.
        given: boxes of the answer.
        overlaps: IoU of each given box with the expected box that it fits best; None where none is expected.
        remark: what else must be known of the answer, such as boxes in it that cannot be read.
    """

    expected: Sequence[Box]
    given: Sequence[Box]
    overlaps: Sequence[float | None]
    remark: str = ""

    @property
    def words(self) -> tuple[str, str]:
        """What is said of the expected and of the given boxes below the picture."""
        expected, given = self._names
        given = _counted(given, "given", self._numbered)
        return _counted(expected, "expected", self._numbered), f"{given}, {self.remark}" if self.remark else given

    @property
    def images(self) -> list[int]:
        """Numbers of the images that a box lies on, from 0."""
        return sorted({box.image for box in (*self.expected, *self.given)})

    def drawn(self, image: int, size: Size) -> Drawing:
        """Lay out the boxes of one image.

        Args:
            image: number of the image among those of the row, from 0.
            size: its width and height in pixels.
        """
        height = round(LABEL_HEIGHT / drawn_scale(size), 2)
        rectangles = [
            place_box(kind, box, str(number) if self._numbered else name, size, height)
            for kind, boxes, names in zip(("expected", "given"), (self.expected, self.given), self._names, strict=True)
            for number, (box, name) in enumerate(zip(boxes, names, strict=True), start=1)
            if box.image == image
        ]
        return Drawing(size, height, rectangles)

    @property
    def _numbered(self) -> bool:
        return len(self.expected) + len(self.given) > MOST_NAMED

    @property
    def _names(self) -> tuple[list[str], list[str]]:
        expected = [shorten(box.label) for box in self.expected]
        given = [
            " ".join(filter(None, (shorten(box.label), "" if overlap is None else f"IoU {overlap:.2f}")))
            for box, overlap in zip(self.given, self.overlaps, strict=True)
        ]
        return expected, given


@dataclass(frozen=True)
class Rectangle:
    """A box as it is drawn, in pixels of the image.

    Attributes:
        kind: expected or given.
        x: left edge.
        y: upper edge.
        width: from the left to the right edge.
        height: from the upper to the lower edge.
        label: words at it; "" for none.
        label_x: where they begin, or end.
        label_y: their base line.
        anchor: start or end.
    """

    kind: str
    x: float
    y: float
    width: float
    height: float
    label: str
    label_x: float
    label_y: float
    anchor: str


@dataclass(frozen=True)
class Drawing:
    """The boxes of a picture.

    Attributes:
        size: width and height of the image in pixels, which are the coordinates.
        label_height: height of the labels' letters.
        rectangles: the boxes, those that were given last.
    """

    size: Size
    label_height: float
    rectangles: list[Rectangle]


def _counted(names: list[str], kind: str, listed: bool) -> str:
    words = f"{len(names) or 'none'} {kind}"
    if not listed or not any(names):
        return words
    numbered = [f"{number} {name}".strip() for number, name in enumerate(names[:_MOST_LISTED], start=1)]
    return f"{words}: {', '.join(numbered)}{', …' if len(names) > _MOST_LISTED else ''}"


def drawn_scale(size: Size) -> float:
    """Return how many CSS pixels a pixel of an image takes in a page.

    Args:
        size: width and height of the image.
    """
    return min(DRAWN_WIDTH / size[0], DRAWN_HEIGHT / size[1])


def label_width(label: str, height: float) -> float:
    """Return about how wide a label is that is so high."""
    return len(label) * height * _LETTER


def shorten(label: str) -> str:
    """Return a name, not longer than a page shows it over a picture."""
    return label if len(label) <= _MOST_CHARACTERS else label[: _MOST_CHARACTERS - 1] + "…"


def place_box(kind: str, box: Box, label: str, size: Size, letter: float) -> Rectangle:
    """Place a box and its label: of an expected box above it, of a given one below, inside where there is no room.

    Args:
        kind: expected or given.
        box: the box.
        label: words at it.
        size: width and height of the image in pixels.
        letter: height of the label's letters in pixels of the image.
    """
    left, top, right, bottom = box.pixels(size)
    fits = left + label_width(label, letter) <= size[0]
    if kind == "expected":
        base = top - 0.35 * letter if top >= 1.3 * letter else top + 1.1 * letter
    else:
        base = bottom + 1.1 * letter if bottom + 1.4 * letter <= size[1] else bottom - 0.35 * letter
    return Rectangle(
        kind,
        round(left, 2),
        round(top, 2),
        round(right - left, 2),
        round(bottom - top, 2),
        label,
        round(left if fits else min(right, size[0]), 2),
        round(base, 2),
        "start" if fits else "end",
    )
