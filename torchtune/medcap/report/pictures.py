"""The pictures of a gallery's row, small and in the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medcap.data.boxes.box import Size
from medcap.data.images.raster import to_rgb
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    ShownImage = ImageRef | str | Path | Image.Image

THUMBNAIL_SIDE = 256
MOST_PICTURES = 16  # of one row: a volume may have hundreds of slices


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        address: ``data:`` address of a JPEG; "" where it cannot be shown.
        size: width and height in pixels before it was made smaller.
        problem: why it cannot be shown.
    """

    address: str
    size: Size = (0, 0)
    problem: str = ""


@dataclass(frozen=True)
class Pictures:
    """The pictures of a row.

    Attributes:
        total: how many there are, slices of volumes included.
        shown: all of them or some, each with its number from 0.
    """

    total: int
    shown: list[tuple[int, Picture]]


class PictureStore:
    """Reads the pictures of a gallery, each once.

    Args:
        reader: opens images; None opens only a file that lies where its path says.
    """

    def __init__(self, reader: ImageReader | None) -> None:
        self._reader = reader
        self._known: dict[tuple[ImageRef | int, int], Picture] = {}

    def read(self, images: Sequence[ShownImage], wanted: Sequence[int] = (), side: int = THUMBNAIL_SIDE) -> Pictures:
        """Read the pictures of a row.

        Args:
            images: references, paths or pictures; a volume has several.
            wanted: numbers of those to show in any case, from 0.
            side: longest side of each, in pixels.

        Returns:
            All of them, or the wanted ones and others that are evenly spaced.
        """
        singles = [single for image in images for single in _single_pictures(image, self._reader)]
        first = [number for number in wanted if number < len(singles)][:MOST_PICTURES]
        others = [number for number in range(len(singles)) if number not in first]
        numbers = sorted([*first, *spread(others, MOST_PICTURES - len(first))])
        return Pictures(len(singles), [(number, self._picture(singles[number], side)) for number in numbers])

    def _picture(self, image: ShownImage, side: int) -> Picture:
        key = ImageRef.of(image) if isinstance(image, (ImageRef, str, Path)) else id(image), side
        if key not in self._known:
            try:
                self._known[key] = thumbnail(image, self._reader, side)
            except (UserError, OSError, ValueError) as error:
                self._known[key] = Picture("", problem=str(error))
        return self._known[key]


def thumbnail(image: ShownImage, reader: ImageReader | None = None, side: int = THUMBNAIL_SIDE) -> Picture:
    """Make a small picture that is in the page itself.

    Args:
        image: reference, path or picture of any mode.
        reader: resolves and opens paths; None opens only a file that lies where the path says.
        side: longest side in pixels.

    Raises:
        UserError: if the image is missing or damaged.
    """
    if isinstance(image, (ImageRef, str, Path)):
        named = ImageRef.of(image)
        reader = reader or ImageReader([Path(named.path).parent])
        small = reader.open(replace(named, path=str(reader.resolve(named.path))))
    else:
        small = to_rgb(image).copy()
    size = small.size
    small.thumbnail((side, side))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=82, optimize=True)
    return Picture("data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode(), size)


def spread(values: list[int], count: int) -> list[int]:
    """Choose values that are evenly spaced, the first and the last among them."""
    if count <= 1 or len(values) <= count:
        return values[: max(count, 0)]
    return [values[round(position * (len(values) - 1) / (count - 1))] for position in range(count)]


def _single_pictures(image: ShownImage, reader: ImageReader | None) -> Sequence[ShownImage]:
    """Return a reference for each frame that one means; of a file that cannot be read, the reference itself."""
    if not isinstance(image, ImageRef) or not image.view.has_several_frames:
        return [image]
    reader = reader or ImageReader([Path(image.path).parent])
    try:
        return reader.expand(replace(image, path=str(reader.resolve(image.path))))
    except (UserError, OSError, ValueError):
        return [image]
