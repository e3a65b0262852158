"""Pictures of PNG, JPEG, TIFF, BMP, WebP and GIF files: by Pillow, but for those that it misreads."""

from __future__ import annotations

import contextlib
from typing import BinaryIO

import numpy as np
from PIL import Image, ImagePalette

from medcap.data.images.orientation import upright
from medcap.data.images.pixel_samples import check_pixels
from medcap.data.images.png import SIGNATURE, SixteenBitPng, has_sixteen_bits, scale_colour_key, without_extras
from medcap.data.images.tiff import tags as tag
from medcap.data.images.tiff.file import TiffFile, check_kind, needs_samples
from medcap.data.images.tiff.tags import is_tiff, read_tags
from medcap.data.images.views import DEFAULT_VIEW, View, apply_window, stretch, through_windows

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")


def open_raster(
    file: BinaryIO, start: bytes, whole: bool, max_pixels: int, closing: contextlib.ExitStack
) -> Image.Image | SixteenBitPng | TiffFile:
    """Read the header of a picture.

    Args:
        file: file, positioned at its beginning.
        start: its first bytes.
        whole: whether it will be decoded.
        max_pixels: width x height above which it is refused.
        closing: gets what must be closed afterwards.

    Returns:
        What :func:`decode` turns into a picture, or an object with ``pictures``, as volumes are.

    Raises:
        UserError: if it is too large, damaged, or of a kind that is not read. The message lacks the file's name.
        PIL.UnidentifiedImageError: if its format is none of ``FORMATS``.
    """
    tags = None
    if start.startswith(SIGNATURE):
        file = closing.enter_context(without_extras(file, whole))
    elif is_tiff(start):
        tags = read_tags(file)
        check_kind(tags)
        file.seek(0)
        if needs_samples(tags):
            return TiffFile(file, tags, max_pixels)
    image = closing.enter_context(Image.open(file, formats=FORMATS))
    check_pixels(image.size, max_pixels)
    if image.format == "PNG":
        if has_sixteen_bits(file):
            return SixteenBitPng(image, file)
        scale_colour_key(image, file)
    if tags is not None and image.mode in ("P", "PA"):
        colours = tags.values.get(tag.COLOUR_MAP, ())
        if max(colours, default=0) < 256:
            # Some writers store 8 bits where the specification asks for 16; libtiff accepts them, too.
            image.palette = ImagePalette.raw("RGB;L", bytes(colours))
    return image


def decode(image: Image.Image, view: View) -> Image.Image:
    """Decode an image of Pillow's.

    Args:
        image: image as :func:`open_raster` returned it, of the whole file.
        view: its window, in stored values, is applied to greys of more than 8 bits.

    Returns:
        The upright picture, mode RGB, or L where there is no colour.

    Raises:
        Exception: whatever Pillow raises for a damaged file.
    """
    image.load()
    return _eight_bits(upright(image), view)


def to_rgb(image: Image.Image, view: View = DEFAULT_VIEW) -> Image.Image:
    """Turn any picture that Pillow decodes into an upright 8-bit RGB one.

    Colours are converted before anything resizes them: a palette index or a 16-bit value cannot be interpolated.

    Args:
        image: any mode.
        view: its window, in stored values, is applied to greys of more than 8 bits.

    Returns:
        Mode RGB, EXIF orientation applied.
    """
    return coloured(_eight_bits(upright(image), view))


def coloured(image: Image.Image) -> Image.Image:
    """Mode RGB of a picture of mode RGB or L."""
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image, view: View) -> Image.Image:
    """Mode RGB, or L where there is no colour."""
    if image.mode == "RGB":
        # A tRNS colour key makes pixels of one colour transparent although the mode has no alpha channel.
        return image if "transparency" not in image.info else _on_white(image.convert("RGBA"))
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image)

        def levels(one: View) -> np.ndarray:
            return stretch(values) if one.one_window is None else apply_window(values, *one.one_window)

        return Image.fromarray(through_windows(view, levels))
    keyed = "transparency" in image.info
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or (image.mode == "P" and keyed):
        picture = image.convert("RGBA")
        # An alpha of 0 everywhere hides the whole picture, which cannot be meant.
        return _on_white(picture) if picture.getchannel("A").getbbox() else picture.convert("RGB")
    if keyed:
        return _on_white(image.convert("RGBA"))
    return image if image.mode == "L" else image.convert("RGB")


def _on_white(image: Image.Image) -> Image.Image:
    background = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return Image.alpha_composite(background, image).convert("RGB")
