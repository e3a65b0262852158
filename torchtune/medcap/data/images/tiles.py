"""High resolution for a tower of one size: the whole image once, and a grid of crops chosen by the image's shape.

This is the rule of LLaVA-NeXT (``select_best_resolution`` and ``resize_and_pad_image`` of
https://github.com/LLaVA-VL/LLaVA-NeXT/blob/main/llava/mm_utils.py), without its newline token.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from medcap.errors import UserError

Size = tuple[int, int]  # width and height, in pixels or in crops


def best_resolution(size: Size, resolutions: Sequence[Size]) -> Size:
    """Choose the resolution that keeps most of an image's pixels, and of several such the one that pads least.

    Args:
        size: the image's.
        resolutions: at least one; of equally good ones the first is taken.

    Returns:
        One of ``resolutions``.
    """
    width, height = size

    def worth(resolution: Size) -> tuple[int, int]:
        scale = min(resolution[0] / width, resolution[1] / height)
        kept = min(int(width * scale) * int(height * scale), width * height)
        return kept, kept - resolution[0] * resolution[1]

    return max(resolutions, key=worth)


def refuse_fit(fit: str | None, tiles: object, key: str = "fit") -> None:
    """Refuse what is said of how an image fills a square, where images are cut into tiles.

    Args:
        fit: what the key says; None for nothing.
        tiles: what is true where images are cut into tiles.
        key: where it is said, for the message.

    Raises:
        UserError: if both are there.
    """
    if fit is not None and tiles:
        raise UserError(f"{key}={fit}: vision.tiles shows all of an image, whatever its shape; leave one of them out")


@dataclass(frozen=True)
class Tiles:
    """How an image is cut into pictures of a tower's size.

    Attributes:
        size: side of a picture, in pixels.
        most: most crops of an image.
    """

    size: int
    most: int

    @property
    def most_pictures(self) -> int:
        """Most pictures of an image."""
        return 1 + self.most

    def grid(self, size: Size) -> Size:
        """Choose the columns and rows of crops for an image of this width and height.

        Returns:
            Their numbers; 1 and 1 for an image that a grid would show no larger: its whole view is enough.
        """
        edges = range(1, self.most + 1)
        grids = [(columns, rows) for rows in edges for columns in edges if columns * rows <= self.most]
        grids.sort(key=math.prod)
        sides = [(columns * self.size, rows * self.size) for columns, rows in grids]
        return grids[sides.index(best_resolution(size, sides))]

    def num_pictures(self, size: Size) -> int:
        """Return the number of pictures of an image of this width and height, its whole view among them."""
        crops = math.prod(self.grid(size))
        return 1 + crops if crops > 1 else 1

    def cut(self, image: Image.Image, resample: Image.Resampling) -> list[Image.Image]:
        """Cut an image into pictures.

        Args:
            image: mode RGB or L.
            resample: how it is resized.

        Returns:
            ``num_pictures`` squares: the whole image, its sides resized, then the crops in reading order, cut out of
            the image that was resized with its proportions kept and laid in the middle of a black grid.
        """
        whole = image.resize((self.size, self.size), resample)
        columns, rows = self.grid(image.size)
        if columns * rows == 1:
            return [whole]
        across, down = columns * self.size, rows * self.size
        width, height = image.size
        if across / width < down / height:
            fitted = across, min(math.ceil(height * (across / width)), down)
        else:
            fitted = min(math.ceil(width * (down / height)), across), down
        padded = Image.new(image.mode, (across, down))
        padded.paste(image.resize(fitted, resample), ((across - fitted[0]) // 2, (down - fitted[1]) // 2))
        corners = [(left, top) for top in range(0, down, self.size) for left in range(0, across, self.size)]
        return [whole, *(padded.crop((left, top, left + self.size, top + self.size)) for left, top in corners)]
