"""Compressed frames of DICOM files: found, checked to be whole, decoded to stored values (PS3.5, 8.2 and annex A)."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from medcap.data.images.dicom.coded_size import coded_size
from medcap.data.images.dicom.jpeg2000_stream import Jpeg2000Stream
from medcap.data.images.dicom.jpeg_stream import JpegStream
from medcap.data.images.dicom.layout import TRANSFORMED, YCBCR, Frame, Layout, from_cells, from_coded, sign_extended
from medcap.data.images.dicom.pixel_decoder import decode
from medcap.data.images.dicom.rle_stream import check_rle
from medcap.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

_RLE = "1.2.840.10008.1.2.5"
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))


def read_compressed(dataset: Dataset, syntax: Any, frames: int, frame: int, layout: Layout) -> Frame:
    """Decode a frame.

    Args:
        dataset: the file's.
        syntax: its transfer syntax.
        frames: how many there are.
        frame: which of them, from 0.
        layout: what the header says.

    Raises:
        UserError: if it is not all there, or contradicts the header. Whatever pydicom and its decoders raise.
    """
    data = _coded_frame(dataset, syntax, frames, frame)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if syntax == _RLE:
        # RLE adds at most 1 byte in 128, and a header.
        most = rows * columns * layout.samples * math.ceil(layout.allocated / 8)
        if len(data) > 2 * most + 1024:
            raise UserError(f"frame {frame} has {len(data):,} bytes for {most:,} bytes of pixels")
        check_rle(data, layout.samples * math.ceil(layout.allocated / 8), rows * columns)
        return from_cells(_decode_coded(dataset, syntax, layout, data), layout, dataset)
    size = coded_size(data)
    if size != (columns, rows):
        found = "no size" if size is None else f"{size[0]} x {size[1]}"
        raise UserError(f"is {columns} x {rows} by its header, but its compressed data say {found}; is it cut off?")
    return (_jpeg_2000_frame if syntax in _JPEG_2000 else _jpeg_frame)(dataset, syntax, data, layout)


def _coded_frame(dataset: Dataset, syntax: Any, frames: int, frame: int) -> bytes:
    """Return the compressed data of a frame, whose fragments are joined."""
    from pydicom.encaps import generate_frames, get_frame, parse_basic_offsets, parse_fragments

    extended = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    if frames > 1:
        buffer = io.BytesIO(dataset.PixelData)
        offsets = len(parse_basic_offsets(buffer))
        fragments, _ = parse_fragments(buffer)
        found = frames
        if all(extended):
            found = len(extended[0]) // 8
        elif offsets:
            found = offsets
        elif fragments != frames:
            # Frames are distinguished by their end markers then, which RLE does not have.
            found = 0 if syntax == _RLE else sum(1 for _ in generate_frames(dataset.PixelData, number_of_frames=frames))
        # A missing one would shift all that follow.
        if found != frames or fragments < frames:
            raise UserError(f"is damaged: cut off: its compressed data do not hold the {frames} frames it says")
    return get_frame(
        dataset.PixelData, frame, extended_offsets=extended if all(extended) else None, number_of_frames=frames
    )


def _jpeg_frame(dataset: Dataset, syntax: Any, data: bytes, layout: Layout) -> Frame:
    stream = JpegStream(data)
    # 8 bits of 12 are the upper ones; a sign would be at a bit that is not known.
    as_they_are = layout.samples == 3 or (not layout.signed and (stream.precision > 8 or layout.stored <= 8))
    _check_samples(stream.components, stream.precision, layout, as_they_are)
    colours = layout.colours
    if layout.samples == 3:
        colours = "RGB" if stream.is_rgb(colours == "RGB") else "YBR_FULL"
    options = {"bits_allocated": 8 if stream.precision <= 8 else 16, "pixel_representation": 0}
    decoded = _whole(stream, partial(_decode_coded, dataset, syntax, layout, **options))
    values = decoded.astype(np.int32)
    if layout.signed:
        values = sign_extended(values, stream.precision)
    return from_coded(values, stream.precision, colours, layout)


def _jpeg_2000_frame(dataset: Dataset, syntax: Any, data: bytes, layout: Layout) -> Frame:
    stream = Jpeg2000Stream(data)
    _check_samples(stream.components, stream.precision, layout, stream.signed or not layout.signed)
    colours = layout.colours
    if layout.samples == 3:
        if (stream.transformed and colours in YCBCR) or (not stream.transformed and colours in TRANSFORMED):
            raise UserError(f"has the colours {colours}, which its JPEG 2000 data contradict: correct the file")
        if stream.signed:
            raise UserError("has colours with a sign in its JPEG 2000 data, which are not read: convert it")
        colours = "YBR_FULL" if colours in YCBCR else "RGB"
    container = next(bits for bits in (8, 16, 32, 64) if stream.precision <= bits)
    values = _decode_coded(dataset, syntax, layout, stream.data, bits_allocated=container)
    return from_coded(values.astype(np.int64), stream.precision, colours, layout)


def _whole(stream: JpegStream, decode_stream: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """Decode a JPEG stream; refuse it if it does not hold just the bits that it needs."""
    decoded = decode_stream(stream.plain())
    if not np.array_equal(decoded, decode_stream(stream.with_added_bits())):
        raise UserError("is damaged: cut off: its JPEG data lack a part")
    changed = stream.with_changed_bits()
    if changed is not None:
        # An error shows that the changed bits were read.
        with contextlib.suppress(RuntimeError):
            if np.array_equal(decoded, decode_stream(changed)):
                raise UserError("is damaged: cut off: its JPEG data lack a part in their middle")
    return decoded


def _check_samples(components: int, precision: int, layout: Layout, as_they_are: bool) -> None:
    """Check the samples of a stream against the header.

    Args:
        components: components of the stream.
        precision: bits of its samples.
        layout: the header's.
        as_they_are: whether fewer bits than the header says still make the values that were meant.
    """
    if components != layout.samples:
        raise UserError(f"has {layout.samples} samples a pixel by its header, but {components} in its compressed data")
    if precision < layout.stored and not as_they_are:
        raise UserError(f"has {layout.stored} bits by its header, but {precision} in its compressed data")


def _options(dataset: Dataset, layout: Layout) -> dict[str, Any]:
    """Return what pydicom needs to know of a frame that it gets without its file."""
    return {
        "rows": int(dataset.Rows),
        "columns": int(dataset.Columns),
        "samples_per_pixel": layout.samples,
        # Colours are converted by us, so that the decoder leaves them as they are.
        "photometric_interpretation": "RGB" if layout.samples == 3 else "MONOCHROME2",
        "planar_configuration": 0,
        "number_of_frames": 1,
        "bits_allocated": layout.allocated,
        "pixel_representation": int(layout.signed),
    }


def _decode_coded(dataset: Dataset, syntax: Any, layout: Layout, data: bytes, **options: Any) -> np.ndarray:
    from pydicom.encaps import encapsulate

    options = {**_options(dataset, layout), **options}
    options["bits_stored"] = min(layout.stored, options["bits_allocated"])
    return decode(encapsulate([data], has_bot=False), syntax, 0, **options)
