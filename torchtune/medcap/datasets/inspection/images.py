"""One image against the rules of training, and what is to be known of it: made in worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.datasets.inspection.rows import RowChecker
from medcap.errors import UserError, is_of_the_machine


@dataclass(frozen=True)
class ImageFacts:
    """What is known of an image.

    Attributes:
        reason: why it cannot be used; None if it can.
        content: a 64-bit number for size and pixels; 0 where it was not decoded.
        width: width in pixels; 0 where it is not known.
        height: height in pixels; 0 where it is not known.
        format: Pillow's name of it, DICOM or NIfTI; empty where it was not asked for.
    """

    reason: str | None = None
    content: int = 0
    width: int = 0
    height: int = 0
    format: str = ""


def decode(reader: ImageReader, image: ImageRef) -> ImageFacts:
    """Open an image as training does; raises what ``ImageReader.open`` raises."""
    picture = reader.open(image)
    digest = hashlib.blake2b(repr(picture.size).encode(), digest_size=8)
    digest.update(picture.tobytes())
    content = int.from_bytes(digest.digest(), "little") or 1
    return ImageFacts(content=content, width=picture.width, height=picture.height)


def read_header(reader: ImageReader, image: ImageRef) -> ImageFacts:
    """Read only size and format; raise what ``ImageReader.check`` raises."""
    header = reader.check(image.path)
    return ImageFacts(width=header.width, height=header.height, format=header.format)


@dataclass
class ImageChecker:
    """Looks at images that rows name.

    Attributes:
        rows: finds the images.
        look: ``decode`` or ``read_header``.
        starts: ``[n + 1]`` int64: the images of row i are ``starts[i]`` to ``starts[i + 1]`` of all that are named.
        wanted: ``[m]`` bool: of all that are named, those to look at.
    """

    rows: RowChecker
    look: Callable[[ImageReader, ImageRef], ImageFacts]
    starts: np.ndarray
    wanted: np.ndarray

    def __call__(self, index: int) -> list[ImageFacts]:
        """Look at the wanted images of a row, in their order.

        Args:
            index: index of the row, from 0.
        """
        wanted = self.wanted[self.starts[index] : self.starts[index + 1]]
        images = self.rows.images(index)
        return [self._look(image) for image, want in zip(images, wanted, strict=True) if want]

    def crashed(self, index: int) -> list[ImageFacts]:
        """Return the facts for a row whose images ended the process that opened them."""
        count = int(self.wanted[self.starts[index] : self.starts[index + 1]].sum())
        reason = "opening its image ends the process (damaged file, or memory ran out)"
        return [ImageFacts(reason)] * count

    def _look(self, image: ImageRef) -> ImageFacts:
        try:
            return self.look(self.rows.reader, image)
        except UserError as error:
            return ImageFacts(str(error))
        except Exception as error:  # a decoder may raise anything
            if is_of_the_machine(error):
                raise
            return ImageFacts(f"image {image.path} cannot be opened: {type(error).__name__}: {error}")
