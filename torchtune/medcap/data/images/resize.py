"""Pictures of one shape: padded, resized, and encoded so that the same picture always gives the same bytes."""

from __future__ import annotations

import io

from PIL import Image

from medcap.errors import UserError

FITS = ("crop", "squash", "shortest")
SUFFIXES = {"png": ".png", "jpeg": ".jpg"}
JPEG_QUALITY = 95
PNG_LEVEL = 4  # radiographs come out as small as with Pillow's 6, in half the time


def pad_wide(picture: Image.Image, above: float) -> Image.Image:
    """Lay a picture that is much longer than wide, or much wider than long, in the middle of a black square.

    The rule of preprocess_images.py of myeongkyunkang/medcap at c8910f0, with 1.8: a picture of exactly that ratio
    stays as it is; of an odd difference, the smaller half is on the left or at the top.

    Args:
        picture: mode RGB.
        above: ratio of the sides above which it is padded; 0 never pads.

    Returns:
        The square, or the picture itself.
    """
    width, height = picture.size
    side = max(width, height)
    if not above or side / min(width, height) <= above:
        return picture
    square = Image.new("RGB", (side, side))
    square.paste(picture, ((side - width) // 2, (side - height) // 2))
    return square


def fit(picture: Image.Image, size: int | None, how: str = "crop") -> Image.Image:
    """Resize a picture as vision towers do, bicubic with antialiasing: a tower of this size then changes nothing.

    Args:
        picture: mode RGB.
        size: side in pixels; None keeps the size.
        how: ``crop`` resizes the short side and cuts out the centre; ``squash`` resizes both sides; ``shortest`` only
            resizes the short side.

    Returns:
        The picture, ``size`` x ``size`` but for ``shortest``.

    Raises:
        UserError: if the long side would have more than 65,535 pixels.
    """
    width, height = picture.size
    if size is None or picture.size == (size, size):
        return picture
    if how == "squash":
        return picture.resize((size, size), Image.Resampling.BICUBIC)
    # torchvision's resize rounds the long side down, and its center_crop rounds halves to even.
    short = min(width, height)
    resized = (size * width // short, size * height // short)
    if max(resized) > 65_535:
        raise UserError(f"is {width} x {height}: with a short side of {size}, its long side is too long")
    if resized != picture.size:
        picture = picture.resize(resized, Image.Resampling.BICUBIC)
    if how == "shortest":
        return picture
    left, top = (round((side - size) / 2) for side in picture.size)
    return picture.crop((left, top, left + size, top + size))


def encode(picture: Image.Image, file_format: str) -> bytes:
    """Encode a picture, as grey where it has no colour, without any metadata.

    Args:
        picture: mode RGB.
        file_format: ``png``, or ``jpeg`` of quality 95 with colours at full resolution.

    Returns:
        The bytes of the file.
    """
    red, green, blue = picture.split()
    if red.tobytes() == green.tobytes() == blue.tobytes():
        picture = red
    picture.info.clear()
    buffer = io.BytesIO()
    if file_format == "png":
        picture.save(buffer, "PNG", compress_level=PNG_LEVEL)
    else:
        picture.save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()
