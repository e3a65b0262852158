"""Boxes in the chat: typed in pixels, told in pixels, and drawn over the image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

from medcap.data.boxes.box import Box, Size
from medcap.data.images.reference import ImageRef
from medcap.errors import UserError

# Asked about, answered: as in a report.
ASKED, ANSWERED = "#4cc9ff", "#ffa23a"


@dataclass
class ShownImage:
    """The image that boxes lie on: the one that was shown last.

    Attributes:
        image: which one; of a volume, the first of its slices that were shown.
        size: width and height in pixels.
        waiting: boxes that go with the next question.
        asked: boxes of the last question.
        answered: boxes of the answer to it.
    """

    image: ImageRef
    size: Size
    waiting: list[Box] = field(default_factory=list)
    asked: Sequence[Box] = ()
    answered: Sequence[Box] = ()


def read_box(words: str, size: Size) -> Box:
    """Read a box that was typed.

    Args:
        words: ``x1 y1 x2 y2`` in pixels of the image, divided by spaces or commas.
        size: width and height of the image in pixels.

    Returns:
        The box.

    Raises:
        UserError: for anything else, for a box of no area, and for one that is not within the image.
    """
    try:
        numbers = [float(word) for word in words.replace(",", " ").split()]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        raise UserError("write /box x1 y1 x2 y2, in pixels of the image, as in /box 120 40 300 200")
    left, top, right, bottom = numbers
    if not (left < right and top < bottom):
        raise UserError(f"/box {words}: this box has no area, x1 must be below x2 and y1 below y2")
    if left < 0 or top < 0 or right > size[0] or bottom > size[1]:
        raise UserError(f"/box {words}: this box is not within the image, which has {size[0]} x {size[1]} pixels")
    return Box((left / size[0], top / size[1], right / size[0], bottom / size[1]))


def pixel_words(box: Box, size: Size) -> str:
    """Say where a box is: ``liver: 120, 40 to 300, 200``."""
    left, top, right, bottom = (f"{number:.1f}".removesuffix(".0") for number in box.pixels(size))
    return f"{box.label}{': ' if box.label else ''}{left}, {top} to {right}, {bottom}"


def draw_boxes(picture: Image.Image, asked: Iterable[Box], answered: Iterable[Box]) -> Image.Image:
    """Draw boxes over a picture.

    Args:
        picture: an RGB picture; it is left unchanged.
        asked: boxes of the question.
        answered: boxes of the answer.

    Returns:
        The picture, enlarged where it is small, so that lines over it stay thin.
    """
    scale = max(1, math.ceil(768 / max(picture.size)))
    drawn = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(drawn)
    width = max(2, max(drawn.size) // 300)
    font = ImageFont.load_default(6 * width)
    for colour, boxes in ((ASKED, asked), (ANSWERED, answered)):
        for box in boxes:
            left, top, right, bottom = box.pixels(drawn.size)
            pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=width)
            if box.label:
                pen.text((left, top - 8 * width), box.label, fill=colour, font=font, stroke_width=2, stroke_fill="black")
    return drawn
