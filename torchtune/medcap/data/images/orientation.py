"""Pictures that are stored turned or mirrored -> upright."""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_TELL = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")


def is_sideways(orientation: int) -> bool:
    """Return whether turning a picture upright exchanges its width and its height."""
    return orientation in (5, 6, 7, 8)


def turn(picture: Image.Image, orientation: int) -> Image.Image:
    """Turn a picture upright.

    Args:
        picture: any mode.
        orientation: the value of the tag of EXIF and TIFF, 1 to 8; others mean nothing.

    Returns:
        The upright picture, without an orientation tag; the same object where it is upright already.
    """
    method = _TURNS.get(orientation)
    if method is None:
        return picture
    turned = picture.transpose(method)
    for key in _TELL:
        turned.info.pop(key, None)
    return turned


def turn_values(values: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an array ``[H, W]`` upright; see :func:`turn`."""
    if is_sideways(orientation):
        values = values.T
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return values[:, ::-1] if orientation in (2, 3, 6, 7) else values


def orientation_of(image: Image.Image) -> int:
    """Read the orientation of a decoded picture.

    Args:
        image: image with or without EXIF or XMP data.

    Returns:
        1 to 8; 1 (as stored) where it has none or its metadata are damaged.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        return orientation if orientation in _TURNS else 1
    except Exception:  # no list covers what damaged metadata raise, and the pixels are whole
        return 1


def upright(image: Image.Image) -> Image.Image:
    """Turn a decoded picture as its own metadata say; the same one where it is upright already."""
    return turn(image, orientation_of(image))
