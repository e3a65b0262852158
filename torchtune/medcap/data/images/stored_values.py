"""The numbers that a picture's pixels hold, where they are not brightness, such as those of a mask."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image

from medcap.data.images.orientation import orientation_of, turn_values
from medcap.data.images.png import SixteenBitPng, grey_bits
from medcap.data.images.shown_size import AnyFile
from medcap.data.images.tiff.file import TiffFile
from medcap.errors import UserError

_FORMATS = ("PNG", "TIFF", "BMP", "GIF", "JPEG")
_ONE_CHANNEL = ("1", "L", "P", "I", "F")


@dataclass(frozen=True)
class StoredValues:
    """Values of the pixels of an upright picture.

    Attributes:
        values: ``[H, W]`` of the file's own type: indices of a palette, greys of any depth, 0 and 1 of one bit.
        exact: False for JPEG, whose compression changes them.
    """

    values: np.ndarray
    exact: bool = True


def stored_values(image: AnyFile, file: BinaryIO | None) -> StoredValues:
    """Read the values of a picture's pixels.

    Three equal channels are one; an alpha channel that is full everywhere is none.

    Args:
        image: the file's header.
        file: the file that the header was read from, whole; None for a series.

    Returns:
        The values; a palette's are its indices, whatever their colours.

    Raises:
        UserError: for other formats than PNG, TIFF, BMP, GIF and JPEG, for colours and for transparency.
    """
    if image.format not in _FORMATS:
        raise UserError(f"is {image.format}, and values of pixels are read from {', '.join(_FORMATS)} files")
    if isinstance(image, SixteenBitPng):
        samples = image.samples()
        values = _one_channel(samples.colours, samples.alpha is None or bool(samples.alpha.min() >= 1))
        return StoredValues(turn_values(values, image.orientation))
    if isinstance(image, TiffFile):
        return StoredValues(turn_values(_one_channel(image.samples()), image.orientation))
    assert isinstance(image, Image.Image), "no other file is of these formats"
    image.load()
    mode = image.mode
    if mode in _ONE_CHANNEL or mode.startswith("I;"):
        values = np.asarray(image)
        if image.format == "PNG" and file is not None:
            file.seek(0)
            bits = grey_bits(file)
            if bits in (2, 4):  # which Pillow scales to 8
                values = values // (255 // (2**bits - 1))
    elif mode in ("RGB", "RGBA", "LA"):
        pixels = np.asarray(image)
        alpha = pixels[..., -1] if mode != "RGB" else None
        values = _one_channel(pixels if alpha is None else pixels[..., :-1], alpha is None or bool(alpha.min() == 255))
    else:
        raise UserError(f"has pixels of the kind {mode}, and a mask needs one value a pixel: save it as grey")
    values = values.astype(np.uint8) if values.dtype == bool else values
    return StoredValues(turn_values(values, orientation_of(image)), exact=image.format != "JPEG")


def _one_channel(pixels: np.ndarray, opaque: bool = True) -> np.ndarray:
    """Return ``[H, W]`` of ``[H, W, C]`` whose channels are equal."""
    if not opaque:
        raise UserError("is partly transparent, so what is inside is not clear: save it as grey without transparency")
    if not (pixels == pixels[..., :1]).all():
        raise UserError("has colours, and a mask needs one value a pixel: save it as grey or with a palette")
    return pixels[..., 0]
