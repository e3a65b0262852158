"""Boxes in the chat: typed in pixels, told in pixels, and drawn over the image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from PIL import Image, ImageDraw, ImageFont

from medcap.data.boxes.box import Box, Size
from medcap.data.boxes.style import BoxStyle
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.generation.request import Generation

# Asked about, answered: as in a report.
ASKED, ANSWERED = "#4cc9ff", "#ffa23a"


class ChatBoxes:
    """The boxes of a chat; they lie on the image that was shown last.

    Attributes:
        waiting: boxes that go with the next question.
        asked: boxes of the last question.
        answered: boxes of the answer to it.
    """

    def __init__(self) -> None:
        self._image: ImageRef | None = None
        self._size: Size = (1, 1)
        self.waiting: list[Box] = []
        self.asked: Sequence[Box] = ()
        self.answered: Sequence[Box] = ()

    def show(self, image: ImageRef, size: Size) -> None:
        """Take the next boxes for those of another image; of a volume, the first of its slices that are shown.

        Raises:
            UserError: if boxes on the one before wait for a question.
        """
        if self.waiting:
            raise UserError("boxes wait for your next words: ask, or drop them with /box none, before another image")
        self._image, self._size = image, size
        self.asked = self.answered = ()

    def add(self, words: str, style: BoxStyle) -> None:
        """Let a box wait for the next question.

        Args:
            words: its edges; see :func:`read_box`.
            style: how the run writes boxes.

        Raises:
            UserError: if there is no image, the words are not a box on it, or the run would not see anything of it.
        """
        if self._image is None:
            raise UserError("show an image first, with /image FILE: a box is on the image that was shown last")
        box = read_box(words, self._size)
        if not style.write(box, self._size, self._image.view.fit):
            raise UserError(f"/box {words}: the run is not shown this part of the image, which its tower cuts off")
        self.waiting.append(box)

    def written(self, style: BoxStyle) -> list[str]:
        """Write the boxes that wait as the run writes boxes."""
        fit = None if self._image is None else self._image.view.fit
        return [style.write(box, self._size, fit) for box in self.waiting]

    def begin(self) -> None:
        """Forget the boxes of an answer that is given anew."""
        self.answered = ()

    def end(self) -> None:
        """Let the boxes that waited be those of a question that was asked."""
        self.asked, self.waiting = self.waiting, []

    def find(self, result: Generation, style: BoxStyle) -> list[str]:
        """Find the boxes of an answer.

        Args:
            result: the answer.
            style: how the run writes boxes.

        Returns:
            A line for each: where it is, in pixels.
        """
        if self._image is None:
            return []
        found = result.outputs.boxes
        self.answered = style.find(result.text, self._size, self._image.view.fit) if found is None else found
        return [pixel_words(box, self._size) for box in self.answered]

    def picture(self, reader: ImageReader) -> Image.Image:
        """Draw the boxes of the last question and its answer over the image.

        Args:
            reader: opens it.

        Raises:
            UserError: if no image was shown, or it cannot be read any more.
        """
        if self._image is None:
            raise UserError("no image was shown yet")
        return draw_boxes(reader.open(self._image), self.asked, self.answered)


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
    scale = drawn_scale(picture.size)
    drawn = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(drawn)
    width = max(2, max(drawn.size) // 300)
    font = ImageFont.load_default(6 * width)
    for colour, boxes in ((ASKED, asked), (ANSWERED, answered)):
        for box in boxes:
            left, top, right, bottom = box.pixels(drawn.size)
            pen.rectangle((left, top, max(left, right - 1), max(top, bottom - 1)), outline=colour, width=width)
            if box.label:
                pen.text(
                    (left, top - 8 * width), box.label, fill=colour, font=font, stroke_width=2, stroke_fill="black"
                )
    return drawn


def drawn_scale(size: Size) -> int:
    """Return how many times as large a picture is drawn, so that lines over a small one stay thin.

    Args:
        size: its width and height.
    """
    return max(1, math.ceil(768 / max(size)))
