"""The size of the picture that the reader would make of a file, from the file's header."""

from __future__ import annotations

from typing import BinaryIO, cast

from PIL import ExifTags, Image
from PIL.TiffImagePlugin import TiffImageFile

from medcap.data.images.dicom import DicomFile, DicomSeries
from medcap.data.images.nifti import NiftiFile
from medcap.data.images.orientation import is_sideways, orientation_of
from medcap.data.images.png import SixteenBitPng, orientation_in
from medcap.data.images.tiff.file import TiffFile
from medcap.data.images.views import View

AnyFile = Image.Image | SixteenBitPng | TiffFile | DicomFile | DicomSeries | NiftiFile


def shown_size(image: AnyFile, view: View, file: BinaryIO | None) -> tuple[int, int]:
    """Find the size of a picture without decoding it.

    Args:
        image: the file's header.
        view: which frame or slice.
        file: the file that the header was read from; None for a series.

    Returns:
        Width and height of the upright picture with square pixels, as it would be decoded.

    Raises:
        UserError: if there is no such frame, or the picture would be too large.
    """
    if isinstance(image, DicomFile | DicomSeries | NiftiFile):
        return image.shown_size(view)
    width, height = image.size
    return (height, width) if is_sideways(_orientation(image, file)) else (width, height)


def _orientation(image: Image.Image | SixteenBitPng | TiffFile, file: BinaryIO | None) -> int:
    """Return how a picture has still to be turned when its ``size`` is known."""
    if isinstance(image, TiffFile):
        return image.orientation
    if image.format == "PNG":
        assert file is not None, "only a series has none"
        return orientation_in(file)
    picture = cast(Image.Image, image)
    # Pillow turns TIFF files by their tag itself, and its ``size`` is that of the turned picture already.
    if isinstance(picture, TiffImageFile) and ExifTags.Base.Orientation in picture.tag_v2:
        return 1
    return orientation_of(picture)
