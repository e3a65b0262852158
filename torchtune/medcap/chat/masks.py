"""Masks in the chat: told in pixels, saved as pictures, and drawn over the image."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medcap.chat.boxes import drawn_scale
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.mask_names import mask_names
from medcap.data.regions.draw import draw_region
from medcap.errors import UserError
from medcap.generation.request import Generation

# One after another; as different in brightness as in hue.
COLOURS = ("#ffa23a", "#4cc9ff", "#f4e04d", "#c77dff", "#3fd68c", "#ff6f91")
OVERLAY = "overlay.png"
_OPACITY = np.uint8(102)  # inside, of 255


class ChatMasks:
    """The masks of the last answer of a chat; they lie on the last image that it was about.

    Attributes:
        found: name and mask ``[H, W]`` bool of each; None for an object that is not there.
    """

    def __init__(self) -> None:
        self._image: ImageRef | None = None
        self.found: list[tuple[str, np.ndarray | None]] = []

    def show(self, image: ImageRef) -> None:
        """Take the masks of the next answers for those of another image."""
        self._image = image
        self.found = []

    def begin(self) -> None:
        """Forget the masks of the answer before."""
        self.found = []

    def find(self, result: Generation, reader: ImageReader) -> list[str]:
        """Find the masks of an answer.

        Args:
            result: the answer.
            reader: opens the image.

        Returns:
            A line for each: how many pixels it has, and which share of the image that is.
        """
        masks = result.outputs.masks or ()
        if self._image is None or not masks:
            return []
        size = reader.open(self._image).size
        names = mask_names(result.text, len(masks))
        self.found = [
            (region.label or name, draw_region(region, size, may_be_empty=True)) if region else (name, None)
            for region, name in zip(masks, names, strict=True)
        ]
        return [f"{_called(number, name)}: {extent(mask)}" for number, (name, mask) in enumerate(self.found, start=1)]

    def save(self, folder: Path, reader: ImageReader) -> int:
        """Write each mask of the last answer, white on black at the size of the image, and the image with all of them.

        Args:
            folder: where the pictures go; it is made.
            reader: opens the image.

        Returns:
            How many masks were written.

        Raises:
            UserError: if the last answer has no mask, or the image cannot be read any more.
            OSError: if a picture cannot be written.
        """
        there = [(number, name, mask) for number, (name, mask) in enumerate(self.found, start=1) if mask is not None]
        if self._image is None or not there:
            raise UserError("the last answer has no masks")
        picture = draw_masks(
            reader.open(self._image), [(f"{number} {name}".strip(), mask) for number, name, mask in there]
        )
        folder.mkdir(parents=True, exist_ok=True)
        for number, name, mask in there:
            Image.fromarray(np.uint8(255) * mask).save(folder / f"{_file_name(number, name)}.png")
        picture.save(folder / OVERLAY)
        return len(there)


def draw_masks(picture: Image.Image, masks: Sequence[tuple[str, np.ndarray]]) -> Image.Image:
    """Draw masks over a picture, each filled, outlined and named.

    Args:
        picture: an RGB picture; it is left unchanged.
        masks: name of each and ``[H, W]`` bool of the picture's size.

    Returns:
        The picture, enlarged where it is small, so that lines over it stay thin.
    """
    scale = drawn_scale(picture.size)
    drawn = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    width = max(2, max(drawn.size) // 400)
    letters = 6 * max(2, max(drawn.size) // 300)
    font = ImageFont.load_default(letters)
    pen = ImageDraw.Draw(drawn)
    for number, (_, mask) in enumerate(masks):
        colour = COLOURS[number % len(COLOURS)]
        inside = Image.fromarray(mask).resize(drawn.size, Image.Resampling.NEAREST)
        drawn.paste(colour, mask=Image.fromarray(_OPACITY * np.asarray(inside, np.uint8)))
        drawn.paste(colour, mask=_edge(inside, width))
    for number, (name, mask) in enumerate(masks):
        rows, columns = np.nonzero(mask)
        if len(rows):
            place = scale * int(columns.min()), max(0, scale * int(rows.min()) - letters - 2 * width)
            colour = COLOURS[number % len(COLOURS)]
            pen.text(place, name, fill=colour, font=font, stroke_width=2, stroke_fill="black")
    return drawn


def _edge(inside: Image.Image, width: int) -> Image.Image:
    """Return what lies inside within so many pixels of the border."""
    from scipy.ndimage import binary_erosion  # here, because it is slow to import

    mask = np.asarray(inside)
    inner: Any = binary_erosion(mask, iterations=width)
    return Image.fromarray(mask & ~inner)


def _called(number: int, name: str) -> str:
    return f"mask {number} ({name})" if name else f"mask {number}"


def extent(mask: np.ndarray | None) -> str:
    """Say how large a mask is; None is one of what is not there."""
    if mask is None:
        return "not there"
    count = int(np.count_nonzero(mask))
    return f"{count:,} pixel{'' if count == 1 else 's'}, {count / mask.size:.1%} of the image".replace("%", " %")


def _file_name(number: int, name: str) -> str:
    return "_".join(["mask", str(number), *re.findall(r"\w+", name)])
