"""Frames of DICOM files as stored values: found, checked, decoded, taken out of the bits that hold them (PS3.5, 8)."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from medcap.data.coded_size import coded_size
from medcap.data.dicom.jpeg2000_stream import Jpeg2000Stream
from medcap.data.dicom.jpeg_stream import JpegStream
from medcap.data.dicom.rle_stream import check_rle
from medcap.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
_YCBCR = ("YBR_FULL", "YBR_FULL_422")
_TRANSFORMED = ("YBR_RCT", "YBR_ICT")  # of JPEG 2000, whose decoder makes RGB of it
_SAMPLES = {**dict.fromkeys((*GREY, PALETTE), 1), **dict.fromkeys(("RGB", *_YCBCR, *_TRANSFORMED), 3)}
_FLOATS = ("FloatPixelData", "DoubleFloatPixelData")
_RLE = "1.2.840.10008.1.2.5"
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{number}" for number in (90, 91, 201, 202, 203))
_OVERLAY_GROUPS, _OVERLAY_BIT = range(0x6000, 0x6020, 2), 0x0102


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        values: stored values ``[rows, columns]``, or ``[rows, columns, 3]`` for colours; signed or unsigned integers,
            or floats.
        colours: what they stand for: one of ``GREY``, ``PALETTE``, ``RGB`` or ``YBR_FULL``.
        bits: of a value; None of floats.
        cells: what held the values, with the bits that are no part of them; of the same type and shape.
    """

    values: np.ndarray
    colours: str
    bits: int | None
    cells: np.ndarray


@dataclass(frozen=True)
class _Layout:
    """How integers are stored."""

    colours: str
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def shifted(self) -> int:
        """Unused bits below the value."""
        return self.high + 1 - self.stored


def check_layout(dataset: Dataset) -> str:
    """Check that the header does not contradict itself about what a pixel is.

    Args:
        dataset: the file's; the pixels need not be there.

    Returns:
        The Photometric Interpretation.

    Raises:
        UserError: if it contradicts itself, or says what is not read.
    """
    colours = str(dataset.get("PhotometricInterpretation") or "").strip().upper()
    if not colours:
        raise UserError("does not say its Photometric Interpretation: correct the file")
    if colours not in _SAMPLES:
        raise UserError(f"has the colours {colours}, which are not read: convert it to RGB")
    samples = int(dataset.get("SamplesPerPixel") or 1)
    if samples != _SAMPLES[colours]:
        raise UserError(f"has {samples} samples a pixel, which contradicts its colours {colours}: correct the file")
    allocated, stored = dataset.get("BitsAllocated"), dataset.get("BitsStored")
    if stored is not None:
        if allocated not in (1, 8, 16, 32, 64):
            raise UserError(f"has {allocated} bits allocated: only 1, 8, 16, 32 and 64 are read")
        if not 1 <= stored <= allocated:
            raise UserError(f"says that {stored} of {allocated} bits are stored: correct the file")
        if dataset.get("PixelRepresentation") not in (None, 0, 1) or (allocated == 1 and dataset.PixelRepresentation):
            raise UserError(f"has the Pixel Representation {dataset.PixelRepresentation}: correct the file")
    return colours


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
        values = _native_order(_decode(dataset, syntax, frame))
        return Frame(values, colours, None, values)
    if "PixelData" not in dataset:
        raise UserError("has no pixel data; is the file cut off?")
    layout = _integer_layout(dataset, colours)
    if not syntax.is_encapsulated:
        return _from_cells(_native_cells(dataset, syntax, frames, frame, layout), layout, dataset)
    data = _coded_frame(dataset, syntax, frames, frame)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if syntax == _RLE:
        # RLE adds at most 1 byte in 128, and a header.
        most = rows * columns * layout.samples * math.ceil(layout.allocated / 8)
        if len(data) > 2 * most + 1024:
            raise UserError(f"frame {frame} has {len(data):,} bytes for {most:,} bytes of pixels")
        check_rle(data, layout.samples * math.ceil(layout.allocated / 8), rows * columns)
        return _from_cells(_decode_coded(dataset, syntax, layout, data), layout, dataset)
    size = coded_size(data)
    if size != (columns, rows):
        found = "no size" if size is None else f"{size[0]} x {size[1]}"
        raise UserError(f"is {columns} x {rows} by its header, but its compressed data say {found}; is it cut off?")
    return (_jpeg_2000_frame if syntax in _JPEG_2000 else _jpeg_frame)(dataset, syntax, data, layout)


def _integer_layout(dataset: Dataset, colours: str) -> _Layout:
    for key in ("BitsAllocated", "BitsStored", "PixelRepresentation"):
        if dataset.get(key) is None:
            raise UserError(f"does not say its {key}: correct the file")
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = stored - 1 if stored == allocated else int(dataset.get("HighBit", stored - 1))
    # Colours have no sign, whatever the header says of it.
    signed = bool(dataset.PixelRepresentation) and _SAMPLES[colours] == 1
    return _Layout(
        colours,
        _SAMPLES[colours],
        allocated,
        stored,
        high,
        signed,
    )


def _native_cells(dataset: Dataset, syntax: Any, frames: int, frame: int, layout: _Layout) -> np.ndarray:
    if layout.colours in _TRANSFORMED:
        raise UserError(f"has the colours {layout.colours} without JPEG 2000, which are not read: convert it to RGB")
    columns = int(dataset.Columns)
    if layout.colours == "YBR_FULL_422" and (columns % 2 or dataset.get("PlanarConfiguration")):
        raise UserError("has the colours YBR_FULL_422 with odd columns or by planes, which are not read: convert it")
    bits = layout.samples * layout.allocated
    _check_length(dataset, frames, "PixelData", bits * 2 // 3 if layout.colours == "YBR_FULL_422" else bits)
    swapped = {}
    if layout.allocated == 1 and not syntax.is_little_endian and dataset["PixelData"].VR == "OW":
        # Bits lie in words, the first in the low byte: big endian turns the words round.
        data = np.frombuffer(dataset.PixelData, dtype=">u2").astype("<u2").tobytes()
        swapped = {"src": data, **_options(dataset, layout), "number_of_frames": frames, "pixel_keyword": "PixelData"}
    options = {"pixel_representation": int(layout.signed), "photometric_interpretation": layout.colours}
    return _decode(dataset, syntax, frame, **{**options, **swapped})


def _check_length(dataset: Dataset, frames: int, key: str, bits: int) -> None:
    """Refuse data that hold a frame more than the header says: the bits of a pixel are told wrong, or the frames."""
    expected = math.ceil(int(dataset.Rows) * int(dataset.Columns) * frames * bits / 8)
    found = len(dataset[key].value or b"")
    if found >= expected + max(2, math.ceil(expected / frames)):
        raise UserError(
            f"has {found:,} bytes of pixels, its header says {expected:,}: correct BitsAllocated or NumberOfFrames"
        )


def _coded_frame(dataset: Dataset, syntax: Any, frames: int, frame: int) -> bytes:
    """The compressed data of a frame, whose fragments are joined."""
    from pydicom.encaps import generate_frames, get_frame, parse_basic_offsets, parse_fragments

    offsets = (dataset.get("ExtendedOffsetTable"), dataset.get("ExtendedOffsetTableLengths"))
    if frames > 1 and not all(offsets):
        buffer = io.BytesIO(dataset.PixelData)
        if not parse_basic_offsets(buffer):
            fragments, _ = parse_fragments(buffer)
            # Without offsets, fragments are told apart by their ends: a missing one would move all frames behind it.
            if fragments != frames and (
                syntax == _RLE or sum(1 for _ in generate_frames(dataset.PixelData, number_of_frames=frames)) != frames
            ):
                raise UserError(f"is damaged: cut off: its compressed data do not hold the {frames} frames it says")
    return get_frame(
        dataset.PixelData, frame, extended_offsets=offsets if all(offsets) else None, number_of_frames=frames
    )


def _jpeg_frame(dataset: Dataset, syntax: Any, data: bytes, layout: _Layout) -> Frame:
    stream = JpegStream(data)
    # 8 bits of 12 are the upper ones; a sign would be at a bit that is not known.
    as_they_are = layout.samples == 3 or (stream.precision > 8 and not layout.signed)
    _check_samples(stream.components, stream.precision, layout, as_they_are or layout.stored <= 8)
    colours = layout.colours
    if layout.samples == 3:
        colours = "RGB" if stream.is_rgb(colours == "RGB") else "YBR_FULL"
    container = 8 if stream.precision <= 8 else 16
    decoded = _whole(
        stream, partial(_decode_coded, dataset, syntax, layout, bits_allocated=container, pixel_representation=0)
    )
    values = decoded.astype(np.int32)
    if layout.signed:
        values = _sign_extended(values, stream.precision)
    return _from_coded(values, stream.precision, colours, layout)


def _jpeg_2000_frame(dataset: Dataset, syntax: Any, data: bytes, layout: _Layout) -> Frame:
    stream = Jpeg2000Stream(data)
    _check_samples(stream.components, stream.precision, layout, stream.signed or not layout.signed)
    colours = layout.colours
    if layout.samples == 3:
        if (stream.transformed and colours in _YCBCR) or (not stream.transformed and colours in _TRANSFORMED):
            raise UserError(f"has the colours {colours}, which its JPEG 2000 data contradict: correct the file")
        colours = "YBR_FULL" if colours in _YCBCR else "RGB"
    container = next(bits for bits in (8, 16, 32, 64) if stream.precision <= bits)
    values = _decode_coded(dataset, syntax, layout, stream.data, bits_allocated=container)
    return _from_coded(values.astype(np.int64), stream.precision, colours, layout)


def _whole(stream: JpegStream, decode: Callable[[bytes], np.ndarray]) -> np.ndarray:
    """Decode a JPEG stream; refuse it if it does not hold just the bits that it needs."""
    decoded = decode(stream.plain())
    if not np.array_equal(decoded, decode(stream.with_added_bits())):
        raise UserError("is damaged: cut off: its JPEG data lack a part")
    changed = stream.with_changed_bits()
    if changed is not None:
        with contextlib.suppress(RuntimeError):  # of bits that are no code: they were read
            if np.array_equal(decoded, decode(changed)):
                raise UserError("is damaged: cut off: its JPEG data lack a part in their middle")
    return decoded


def _check_samples(components: int, precision: int, layout: _Layout, as_they_are: bool) -> None:
    """Check the samples of a stream against the header.

    Args:
        components: of the stream.
        precision: bits of its samples.
        layout: the header's.
        as_they_are: whether fewer bits than the header says still make the values that were meant.
    """
    if components != layout.samples:
        raise UserError(f"has {layout.samples} samples a pixel by its header, but {components} in its compressed data")
    if precision < layout.stored and not as_they_are:
        raise UserError(f"has {layout.stored} bits by its header, but {precision} in its compressed data")


def _from_cells(cells: np.ndarray, layout: _Layout, dataset: Dataset) -> Frame:
    """Take the values out of the bits that are allocated (PS3.5, 8.1.1)."""
    cells = _native_order(cells)
    width = cells.dtype.itemsize * 8
    if layout.shifted < 0 or layout.high >= layout.allocated:
        raise UserError(
            f"says that bit {layout.high} of {layout.allocated} is the highest of {layout.stored}: correct HighBit"
        )
    if (
        layout.shifted
        and np.any(cells & cells.dtype.type(2**layout.shifted - 1))
        and not _has_embedded_overlay(dataset)
    ):
        raise UserError(
            f"says that {layout.shifted} bits below its pixels are not used (BitsStored {layout.stored}, HighBit"
            f" {layout.high}), but they are: correct the file"
        )
    above = width - 1 - layout.high
    values = cells
    if layout.allocated > 1 and (above or layout.shifted):
        values = (cells << above) >> (above + layout.shifted)
    colours = "YBR_FULL" if layout.colours in _YCBCR else layout.colours
    return Frame(values, colours, layout.stored, cells)


def _has_embedded_overlay(dataset: Dataset) -> bool:
    return any(dataset.get((group, _OVERLAY_BIT)) is not None for group in _OVERLAY_GROUPS)


def _from_coded(values: np.ndarray, precision: int, colours: str, layout: _Layout) -> Frame:
    """Bring decoded samples to the bits that the header says; they may have had more.

    Args:
        values: int32 or int64, with the sign that ``precision`` bits give them.
        precision: bits of a compressed sample.
        colours: what they stand for.
        layout: the header's.
    """
    bits = layout.stored
    if precision != bits and layout.shifted:
        if layout.shifted < 0 or precision <= layout.high or np.any(values & (2**layout.shifted - 1)):
            raise UserError(
                f"has {precision} bits in its compressed data, which BitsStored {bits} and HighBit {layout.high}"
                " contradict: correct the file"
            )
        values = values >> layout.shifted
    if layout.signed and values.min() >= 0 and values.max() < 2**bits:
        values = _sign_extended(values, bits)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if layout.signed else (0, 2**bits - 1)
    # Lossy compression goes a little beyond the range; values far beyond it show that the header is wrong.
    beyond = 2**bits // 8
    if values.min() < low - beyond or values.max() > high + beyond:
        raise UserError(f"has values of more than {bits} bits in its compressed data: correct BitsStored")
    container = next(size for size in (8, 16, 32, 64) if bits <= size)
    values = np.clip(values, low, high).astype(f"{'i' if layout.signed else 'u'}{container // 8}")
    # A window is in the header's bits, a colour in those of its sample.
    return Frame(values, colours, min(bits, precision) if layout.samples == 3 else bits, values)


def _sign_extended(values: np.ndarray, bits: int) -> np.ndarray:
    return np.where(values >= 2 ** (bits - 1), values - 2**bits, values)


def _native_order(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _options(dataset: Dataset, layout: _Layout) -> dict[str, Any]:
    """What pydicom wants to know of a frame that it gets without its file."""
    return {
        "rows": int(dataset.Rows),
        "columns": int(dataset.Columns),
        "samples_per_pixel": layout.samples,
        # Colours are converted by us, so that the decoder leaves them as they are.
        "photometric_interpretation": "RGB" if layout.samples == 3 else "MONOCHROME2",
        "planar_configuration": 0,
        "number_of_frames": 1,
        "bits_allocated": layout.allocated,
        "bits_stored": layout.stored,
        "pixel_representation": int(layout.signed),
    }


def _decode_coded(dataset: Dataset, syntax: Any, layout: _Layout, data: bytes, **options: Any) -> np.ndarray:
    from pydicom.encaps import encapsulate

    return _decode(encapsulate([data], has_bot=False), syntax, 0, **{**_options(dataset, layout), **options})


def _decode(source: Any, syntax: Any, frame: int, **options: Any) -> np.ndarray:
    """What pydicom decodes, its unused bits and colours as they are."""
    from pydicom.pixels import get_decoder

    source = options.pop("src", source)
    try:
        return get_decoder(syntax).as_array(source, index=frame, raw=True, correct_unused_bits=False, **options)[0]
    except BaseException as error:
        # What a decoder in Rust raises when it panics is no Exception, and would end the run.
        if type(error).__name__ == "PanicException":
            raise UserError(f"is damaged: its decoder failed ({error})") from error
        raise
