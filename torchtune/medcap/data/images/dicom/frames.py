"""Frames of DICOM files as stored values."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from medcap.data.images.dicom.compressed_frames import read_compressed
from medcap.data.images.dicom.layout import GREY, TRANSFORMED, Frame, Layout, check_layout, from_cells, integer_layout
from medcap.data.images.dicom.pixel_decoder import decode
from medcap.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

_FLOATS = ("FloatPixelData", "DoubleFloatPixelData")


def read_frame(dataset: Dataset, syntax: Any, frames: int, frame: int) -> Frame:
    """Decode a frame.

    Args:
        dataset: the file's.
        syntax: its transfer syntax.
        frames: how many there are.
        frame: which of them, from 0.

    Returns:
        The frame.

    Raises:
        UserError: if it is not all there, or cannot be read. Whatever pydicom and its decoders raise.
    """
    colours = check_layout(dataset)
    if any(key in dataset for key in _FLOATS):
        if syntax.is_encapsulated or colours not in GREY:
            raise UserError("has Float Pixel Data that are compressed or coloured, which are not read: convert it")
        _check_length(dataset, frames, next(key for key in _FLOATS if key in dataset), dataset.get("BitsAllocated", 32))
        values = decode(dataset, syntax, frame)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        return Frame(values, colours, None, values)
    if "PixelData" not in dataset:
        raise UserError("has no pixel data; is the file cut off?")
    layout = integer_layout(dataset, colours)
    if not syntax.is_encapsulated:
        return from_cells(_native_cells(dataset, syntax, frames, frame, layout), layout, dataset)
    return read_compressed(dataset, syntax, frames, frame, layout)


def _native_cells(dataset: Dataset, syntax: Any, frames: int, frame: int, layout: Layout) -> np.ndarray:
    if layout.colours in TRANSFORMED:
        raise UserError(f"has the colours {layout.colours} without JPEG 2000, which are not read: convert it to RGB")
    columns = int(dataset.Columns)
    if layout.colours == "YBR_FULL_422" and (columns % 2 or dataset.get("PlanarConfiguration")):
        raise UserError("has the colours YBR_FULL_422 with odd columns or by planes, which are not read: convert it")
    bits = layout.samples * layout.allocated
    _check_length(dataset, frames, "PixelData", bits * 2 // 3 if layout.colours == "YBR_FULL_422" else bits)
    if layout.allocated == 1:
        return _single_bits(dataset, syntax, frame)
    options = {"pixel_representation": int(layout.signed), "photometric_interpretation": layout.colours}
    return decode(dataset, syntax, frame, **options)


def _single_bits(dataset: Dataset, syntax: Any, frame: int) -> np.ndarray:
    """Return a frame of single bits, which need not begin with a byte (PS3.5, 8.1.1)."""
    data = dataset.PixelData
    if not syntax.is_little_endian and dataset["PixelData"].VR == "OW":
        # Bits are stored in words, the first in the low byte: in a big-endian file the bytes must be swapped.
        data = np.frombuffer(data, dtype=">u2").astype("<u2").tobytes()
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    start, end = (number * rows * columns for number in (frame, frame + 1))
    if len(data) * 8 < end:
        raise UserError(f"is damaged: cut off: it has {len(data):,} bytes of pixels, too few for frame {frame}")
    packed = np.frombuffer(data, dtype=np.uint8)[start // 8 : math.ceil(end / 8)]
    first = start % 8
    return np.unpackbits(packed, bitorder="little")[first : first + rows * columns].reshape(rows, columns)


def _check_length(dataset: Dataset, frames: int, key: str, bits: int) -> None:
    """Refuse data that hold one frame more than the header says: the number of bits or of frames is wrong."""
    expected = math.ceil(int(dataset.Rows) * int(dataset.Columns) * frames * bits / 8)
    found = len(dataset[key].value or b"")
    if found >= expected + max(2, math.ceil(expected / frames)):
        raise UserError(
            f"has {found:,} bytes of pixels, its header says {expected:,}: correct BitsAllocated or NumberOfFrames"
        )
