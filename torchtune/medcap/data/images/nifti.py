"""Slices of NIfTI volumes: turned as radiologists look at them, scaled, windowed, 8 bit.

nibabel reads them; it is imported when the first volume is opened.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from medcap.data.images.frame_choice import choose_frames
from medcap.data.images.pixel_samples import PixelSamples, to_picture
from medcap.data.images.views import AXES, View, apply_window, square_pixels, square_size, stretch, through_windows
from medcap.data.images.volume import MAX_VOLUME_BYTES, Volume
from medcap.errors import TooManyPixelsError, UserError, ViewError

_MAX_OFFSET = 16 * 2**20
_GZIP = b"\x1f\x8b"
# nifti1.h and nifti2.h of the NIfTI standard: the header's length, and the position of its magic word.
_HEADERS = {348: (344, (b"n+1\0",)), 540: (4, (b"n+2\0",))}
_HEADER_BYTES = 540
_END_BYTES = 2**20


def is_nifti(file: BinaryIO) -> bool:
    """Return whether a file is a NIfTI volume in one file (.nii, .nii.gz); the position in the file does not change."""
    position = file.tell()
    try:
        return _header_length(_start(file)) is not None
    except (OSError, EOFError, zlib.error):
        return False
    finally:
        file.seek(position)


class NiftiFile:
    """One NIfTI volume.

    Args:
        file: file, positioned at its beginning.
        max_pixels: width x height above which a slice is refused.
        keep: returns the volume of this file, which its argument reads; it may have kept it.

    Attributes:
        format: ``NIfTI``.
        frames: slices along the axis that has most of them.

    Raises:
        UserError: if nibabel is not installed, or the volume is too large, complex, or has fewer than two dimensions.
    """

    format = "NIfTI"

    def __init__(
        self,
        file: BinaryIO,
        max_pixels: int,
        keep: Callable[[Callable[[], Volume]], Volume] = lambda load: load(),
    ) -> None:
        try:
            import nibabel
        except ImportError:
            raise UserError("is a NIfTI volume: reading it needs nibabel, pip install 'medcap[dicom]'") from None
        self.max_pixels = max_pixels
        self._file = file
        self._keep = keep
        start = _start(file)
        length = _header_length(start)
        self._kind = nibabel.Nifti1Image if length == 348 else nibabel.Nifti2Image
        self._header = header = self._kind.header_class(start[:length])
        stored = header.get_data_dtype()
        if stored.kind == "c":
            raise UserError("is a NIfTI file of complex numbers, which have no brightness: save their magnitude")
        self._shape = tuple(int(size) for size in header.get_data_shape())
        while len(self._shape) > 3 and self._shape[-1] == 1:
            self._shape = self._shape[:-1]
        if not 2 <= len(self._shape) <= 4 or min(self._shape) < 1:
            raise UserError(f"is a NIfTI file of the shape {self._shape}: only volumes, and series of them, are read")
        size = math.prod(self._shape) * stored.itemsize
        if size > MAX_VOLUME_BYTES or int(header["vox_offset"]) > _MAX_OFFSET:
            raise UserError(f"is a NIfTI file of {size:,} bytes, more than the {MAX_VOLUME_BYTES:,} allowed")
        largest = math.prod(sorted(self._shape[:3])[-2:])
        if largest > max_pixels:
            raise TooManyPixelsError(f"has slices of {largest:,} pixels, more than the {max_pixels:,} allowed")
        self.frames = max(self._shape[2:3] or (1,))

    @property
    def size(self) -> tuple[int, int]:
        """Voxels along the first two axes."""
        return self._shape[0], self._shape[1]

    def pictures(self, view: View) -> Iterator[tuple[int, Image.Image]]:
        """Cut slices, one after the other.

        The front or the head is at the top; the patient's right side, in sagittal slices the front, is on the left,
        as radiologists look at slices. Without a window, the range that the header names (``cal_min`` and
        ``cal_max``) is shown, otherwise the range of the whole volume, so that all its slices have one contrast. Of a
        series of volumes, the first is taken.

        Args:
            view: which slices, counted from the patient's left, back or feet; along which axis; which window.

        Yields:
            The slice's number from 0, and the picture, mode L or RGB.

        Raises:
            UserError: if there is no such slice, or no finite value. A damaged file raises nibabel's own errors.
        """
        volume = self._keep(self._load)
        self.frames = volume.values.shape[AXES.index(view.axis)]
        if isinstance(view.window, int):
            raise ViewError("offers no windows to choose from: give a centre and a width")
        for number in choose_frames(view.frames, self.frames):
            picture = self._picture(volume, number, view)
            yield number, square_pixels(picture, *volume.spacing_of(view.axis), self.max_pixels)

    def count(self, axis: str) -> int:
        """Return the number of slices along one of ``AXES``, from the header alone."""
        return self._extents()[0][AXES.index(axis)]

    def shown_size(self, view: View) -> tuple[int, int]:
        """Return width and height of the first picture that :meth:`pictures` would cut."""
        shape, spacing = self._extents()
        axis = AXES.index(view.axis)
        choose_frames(view.frames, shape[axis])
        across, down = (other for other in (0, 1, 2) if other != axis)
        return square_size((shape[across], shape[down]), spacing[down], spacing[across], self.max_pixels)

    def _extents(self) -> tuple[list[int], list[float]]:
        """Return the number and the distance of the slices along each of ``AXES``."""
        from nibabel.orientations import io_orientation

        order = _axis_order(_orientation(self._header.get_best_affine(), io_orientation))
        shape, spacing = (*self._shape[:3], 1), _spacing(self._header)
        return [int(shape[position]) for position in order], [spacing[position] for position in order]

    @staticmethod
    def _picture(volume: Volume, number: int, view: View) -> Image.Image:
        values = volume.slice(view.axis, number)
        if values.dtype.names is not None:
            return to_picture(_colours(values), view)
        values = values.astype(np.float64) * volume.slope + volume.intercept

        def levels(one: View) -> np.ndarray:
            if one.one_window is not None:
                return apply_window(values, *one.one_window)
            return stretch(values, *(volume.named or volume.value_range))

        return Image.fromarray(through_windows(view, levels))

    def _load(self) -> Volume:
        """Return the values turned to left-right, back-front, feet-head."""
        from nibabel.orientations import apply_orientation, io_orientation

        stream = _inflated(self._file)
        image = self._kind.from_stream(stream)
        header = image.header
        values = image.dataobj.get_unscaled().reshape(image.shape[: len(self._shape)], order="F")
        _check_end(stream)
        values = values[..., 0] if values.ndim == 4 else values[..., None] if values.ndim == 2 else values
        spacing = _spacing(header)
        orientation = _orientation(image.affine, io_orientation)
        sagittal, coronal, axial = (spacing[position] for position in _axis_order(orientation))
        low, high = float(header["cal_min"]), float(header["cal_max"])
        return Volume(
            apply_orientation(values, orientation),
            (sagittal, coronal, axial),
            slope=float(image.dataobj.slope),
            intercept=float(image.dataobj.inter),
            named=(low, high) if high > low else None,
        )


def _colours(values: np.ndarray) -> PixelSamples:
    """RGB24 or RGBA32."""
    red, green, blue, *alpha = (values[name] for name in values.dtype.names or ())
    return PixelSamples(np.stack([red, green, blue], axis=-1), alpha[0] / 255 if alpha else None, full=255)


def _orientation(affine: np.ndarray, find: Any) -> np.ndarray:
    """Return the patient's axis for each axis of the array; the array's own order if the header's matrix is empty."""
    orientation = find(affine) if np.isfinite(affine).all() else np.full((3, 2), np.nan)
    return orientation if np.isfinite(orientation).all() else np.array([[0, 1], [1, 1], [2, 1]], dtype=float)


def _axis_order(orientation: np.ndarray) -> list[int]:
    """Return the axis of the array for each axis of the patient."""
    return orientation[:, 0].astype(int).argsort().tolist()


def _spacing(header: Any) -> list[float]:
    """Return the distance of voxels along each axis of the array; that of an axis that is not there is 0."""
    return [float(size) for size in header.get_zooms()[:3]] + [0.0]


def _inflated(file: BinaryIO) -> BinaryIO:
    position = file.tell()
    compressed = file.read(2) == _GZIP
    file.seek(position)
    return gzip.GzipFile(fileobj=file, mode="rb") if compressed else file  # type: ignore[return-value]


def _check_end(stream: BinaryIO) -> None:
    """Read the rest after the voxels, within bounds: the checksum of a gzip file is verified at its end."""
    for _ in range(_MAX_OFFSET // _END_BYTES):
        if not stream.read(_END_BYTES):
            return


def _start(file: BinaryIO) -> bytes:
    """Return the first bytes of the volume, inflated."""
    position = file.tell()
    start = _inflated(file).read(_HEADER_BYTES)
    file.seek(position)
    return start


def _header_length(start: bytes) -> int | None:
    for order in "<>":
        length = struct.unpack(f"{order}i", start[:4])[0] if len(start) >= 4 else 0
        position, magic = _HEADERS.get(length, (0, ()))
        if magic and start[position : position + 4] in magic:
            return length
    return None
