"""Slices of NIfTI volumes: turned as radiologists look at them, scaled, windowed, 8 bit.

nibabel reads them; it is imported when the first volume is opened.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from medcap.data.images.pixel_samples import PixelSamples, to_picture
from medcap.data.images.views import AXES, View, apply_window, choose_frames, square_pixels, square_size, stretch
from medcap.errors import TooManyPixelsError, UserError

MAX_VOLUME_BYTES = 2 * 2**30  # in memory, of one volume
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

    Attributes:
        format: ``NIfTI``.
        frames: slices along the axis that has most of them.

    Raises:
        UserError: if nibabel is not installed, or the volume is too large, complex, or has fewer than two dimensions.
    """

    format = "NIfTI"

    def __init__(self, file: BinaryIO, max_pixels: int) -> None:
        try:
            import nibabel
        except ImportError:
            raise UserError("is a NIfTI volume: reading it needs nibabel, pip install 'medcap[dicom]'") from None
        self.max_pixels = max_pixels
        self._file = file
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
        volume, spacing, scale, named = self._load()  # [sagittal, coronal, axial]
        axis = AXES.index(view.axis)
        self.frames = volume.shape[axis]
        chosen = choose_frames(view.frames, self.frames)
        if isinstance(view.window, int):
            raise UserError("offers no windows to choose from: give a centre and a width")
        low, high = named or (None, None)
        if view.window is None and named is None and volume.dtype.names is None:
            low, high = sorted(_range(volume) * scale[0] + scale[1])
        rows, columns = (spacing[other] for other in (2, 1, 0) if other != axis)
        for number in chosen:
            # [columns, rows], both from the patient's left, back and feet: turned, then read from the other ends.
            values = np.take(volume, number, axis=axis).T[::-1, ::-1]
            if volume.dtype.names is not None:
                picture = to_picture(_colours(values), view)
            else:
                values = values.astype(np.float64) * scale[0] + scale[1]
                picture = Image.fromarray(
                    apply_window(values, *view.window) if view.window else stretch(values, low, high)
                )
            yield number, square_pixels(picture, rows, columns, self.max_pixels)

    def shown_size(self, view: View) -> tuple[int, int]:
        """Return width and height of the first picture that :meth:`pictures` would cut."""
        from nibabel.orientations import io_orientation

        order = _axis_order(_orientation(self._header.get_best_affine(), io_orientation))
        shape, spacing = (*self._shape[:3], 1), _spacing(self._header)
        axis = AXES.index(view.axis)
        choose_frames(view.frames, shape[order[axis]])
        across, down = (order[other] for other in (0, 1, 2) if other != axis)
        return square_size((shape[across], shape[down]), spacing[down], spacing[across], self.max_pixels)

    def _load(self) -> tuple[np.ndarray, list[float], tuple[float, float], tuple[float, float] | None]:
        """Return values turned to left-right, back-front, feet-head; spacing; slope and intercept; the named range."""
        from nibabel.orientations import apply_orientation, io_orientation

        stream = _inflated(self._file)
        image = self._kind.from_stream(stream)
        header = image.header
        values = image.dataobj.get_unscaled().reshape(image.shape[: len(self._shape)], order="F")
        _check_end(stream)
        values = values[..., 0] if values.ndim == 4 else values[..., None] if values.ndim == 2 else values
        spacing = _spacing(header)
        orientation = _orientation(image.affine, io_orientation)
        order = _axis_order(orientation)
        low, high = float(header["cal_min"]), float(header["cal_max"])
        slope, intercept = image.dataobj.slope, image.dataobj.inter
        return (
            apply_orientation(values, orientation),
            [spacing[position] for position in order],
            (float(slope), float(intercept)),
            (low, high) if high > low else None,
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


def _range(volume: np.ndarray) -> np.ndarray:
    """Return the smallest and the largest finite value, float64 [2], slice by slice to save memory."""
    parts = [part[np.isfinite(part)] for part in volume] if volume.dtype.kind == "f" else [volume]
    parts = [part for part in parts if part.size]
    if not parts:
        raise UserError("holds not one finite value")
    return np.array([min(float(part.min()) for part in parts), max(float(part.max()) for part in parts)])


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
