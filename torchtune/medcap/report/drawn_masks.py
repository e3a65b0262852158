"""Masks over a picture in SVG coordinates: the geometry. What is drawn there is in ``gallery.html.j2``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from medcap.data.boxes.box import Box, Size
from medcap.data.regions.draw import draw_region, read_mask
from medcap.data.regions.region import MaskFile, Region, RunLength
from medcap.report.drawn_boxes import (
    LABEL_HEIGHT,
    MOST_NAMED,
    Rectangle,
    drawn_scale,
    label_width,
    place_box,
    shorten,
)
from medcap.report.mask_outlines import outline

MOST_LISTED = 20  # objects of a row


@dataclass(frozen=True)
class ObjectMasks:
    """The masks of one object.

    Attributes:
        label: what it is; "" where that is not said.
        words: how well they fit, or what is missing.
        expected: mask of the reference; None where the object is absent.
        given: mask of the answer; None where it has none that can be drawn.
    """

    label: str
    words: str
    expected: Region | None = None
    given: Region | None = None


@dataclass(frozen=True)
class RowMasks:
    """The masks that a row asks for and those of its answer.

    Attributes:
        objects: those of the reference, then those that only the answer has.
        iou: mean IoU of the objects.
        image_size: width and height of the original image, for regions that are no masks; None where it is not known.
    """

    objects: Sequence[ObjectMasks]
    iou: float = 0.0
    image_size: Size | None = None

    @property
    def listed(self) -> list[tuple[str, str]]:
        """The name of each object, and how well its masks fit."""
        shown = [(self._name(number, one), one.words) for number, one in enumerate(self.objects[:MOST_LISTED], start=1)]
        more = len(self.objects) - MOST_LISTED
        return [*shown, ("", f"and {more} more")] if more > 0 else shown

    @property
    def words(self) -> str:
        """What is said of the masks where they cannot be seen."""
        return "; ".join(f"{name}: {words}" if name else words for name, words in self.listed)

    @property
    def images(self) -> list[int]:
        """Numbers of the images that a mask lies on, from 0."""
        return sorted({region.image for one in self.objects for region in (one.expected, one.given) if region})

    def drawn(self, image: int, size: Size) -> MaskDrawing:
        """Lay out the masks of one image.

        Args:
            image: number of the image among those of the row, from 0.
            size: its width and height in pixels.
        """
        height = round(LABEL_HEIGHT / drawn_scale(size), 2)
        shapes: list[Shape] = []
        places: list[tuple[str, str, Box]] = []
        for number, one in enumerate(self.objects, start=1):
            found = [
                shape
                for kind, region in (("given", one.given), ("expected", one.expected))
                if region is not None and region.image == image and (shape := self._shape(kind, region, size))
            ]
            shapes += found
            if found and len(self.objects) > 1:
                left, top, right, bottom = zip(*(shape.edges for shape in found), strict=True)
                around = Box((min(left), min(top), max(right), max(bottom)))
                places.append((shorten(one.label) or str(number), str(number), around))
        labels = [place_box("expected", around, name, size, height) for name, _, around in places]
        if len(self.objects) > MOST_NAMED or any(_collide(*pair, height) for pair in combinations(labels, 2)):
            labels = [place_box("expected", around, number, size, height) for _, number, around in places]
        return MaskDrawing(size, height, shapes, labels)

    def _name(self, number: int, one: ObjectMasks) -> str:
        label = shorten(one.label)
        if len(self.objects) == 1:
            return label
        return f"{number} {label}".strip()

    def _shape(self, kind: str, region: Region, size: Size) -> Shape | None:
        if isinstance(region.shape, RunLength | MaskFile):
            mask = read_mask(region.shape)  # of any size
        else:
            mask = draw_region(region, self.image_size or size, may_be_empty=True)
        traced = outline(mask)
        if traced is None:
            return None
        height, width = mask.shape
        scale = traced.unit * size[0] / width, traced.unit * size[1] / height
        left, top, right, bottom = traced.edges
        edges = left / width, top / height, right / width, bottom / height
        return Shape(kind, traced.path, f"{scale[0]:.6g} {scale[1]:.6g}", edges)


@dataclass(frozen=True)
class Shape:
    """A mask as it is drawn.

    Attributes:
        kind: expected or given.
        path: path of an SVG ``<path>``.
        scale: numbers of an SVG ``scale(...)`` that makes pixels of the image of the path's units.
        edges: left, top, right and bottom in shares of the image.
    """

    kind: str
    path: str
    scale: str
    edges: tuple[float, float, float, float]


@dataclass(frozen=True)
class MaskDrawing:
    """The masks of a picture.

    Attributes:
        size: width and height of the image in pixels, which are the coordinates.
        label_height: height of the labels' letters.
        shapes: the masks; of each object the one that was given first, so that the reference lies over it.
        labels: names of the objects where there are several.
    """

    size: Size
    label_height: float
    shapes: list[Shape]
    labels: list[Rectangle]


def _collide(first: Rectangle, second: Rectangle, height: float) -> bool:
    """Return whether the names of two objects would lie over each other."""
    lefts = [box.label_x - (label_width(box.label, height) if box.anchor == "end" else 0) for box in (first, second)]
    widths = [label_width(box.label, height) for box in (first, second)]
    beside = lefts[0] + widths[0] <= lefts[1] or lefts[1] + widths[1] <= lefts[0]
    return not beside and abs(first.label_y - second.label_y) < height
