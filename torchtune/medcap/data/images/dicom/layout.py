"""How the header of a DICOM file says that pixels are stored, and values taken out so (PS3.3, C.7.6.3; PS3.5, 8)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medcap.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

GREY = ("MONOCHROME1", "MONOCHROME2")
PALETTE = "PALETTE COLOR"
YCBCR = ("YBR_FULL", "YBR_FULL_422")
TRANSFORMED = ("YBR_RCT", "YBR_ICT")  # for JPEG 2000, whose decoder converts to RGB
_SAMPLES = {**dict.fromkeys((*GREY, PALETTE), 1), **dict.fromkeys(("RGB", *YCBCR, *TRANSFORMED), 3)}
_OVERLAY_GROUPS, _OVERLAY_BIT, _OVERLAY_DATA = range(0x6000, 0x6020, 2), 0x0102, 0x3000


@dataclass(frozen=True)
class Frame:
    """One decoded frame.

    Attributes:
        values: stored values ``[rows, columns]``, or ``[rows, columns, 3]`` for colours; signed or unsigned integers,
            or floats.
        colours: their meaning: one of ``GREY``, ``PALETTE``, ``RGB`` or ``YBR_FULL``.
        bits: number of bits of a value; None for floats.
        cells: what held the values, with unused bits; of the same type and shape.
    """

    values: np.ndarray
    colours: str
    bits: int | None
    cells: np.ndarray


@dataclass(frozen=True)
class Layout:
    """How integers are stored.

    Attributes:
        colours: the Photometric Interpretation.
        samples: values of a pixel.
        allocated: bits that are there for a value.
        stored: bits of a value.
        high: which of the allocated bits is its highest.
        signed: whether it has a sign.
    """

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
    if stored is not None and allocated is not None:
        if allocated not in (1, 8, 16, 32, 64):
            raise UserError(f"has {allocated} bits allocated: only 1, 8, 16, 32 and 64 are read")
        if not 1 <= stored <= allocated:
            raise UserError(f"says that {stored} of {allocated} bits are stored: correct the file")
        if dataset.get("PixelRepresentation") not in (None, 0, 1) or (allocated == 1 and dataset.PixelRepresentation):
            raise UserError(f"has the Pixel Representation {dataset.PixelRepresentation}: correct the file")
        if allocated == 1 and samples == 3:
            raise UserError("has colours of 1 bit, which are not read: convert it")
    return colours


def integer_layout(dataset: Dataset, colours: str) -> Layout:
    """Read how integers are stored.

    Args:
        dataset: the file's, checked by :func:`check_layout`.
        colours: its Photometric Interpretation.

    Raises:
        UserError: if an element is missing.
    """
    for key in ("BitsAllocated", "BitsStored", "PixelRepresentation"):
        if dataset.get(key) is None:
            raise UserError(f"does not say its {key}: correct the file")
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = stored - 1 if stored == allocated else int(dataset.get("HighBit", stored - 1))
    # Colours are unsigned, whatever the header says.
    signed = bool(dataset.PixelRepresentation) and _SAMPLES[colours] == 1
    return Layout(colours, _SAMPLES[colours], allocated, stored, high, signed)


def from_cells(cells: np.ndarray, layout: Layout, dataset: Dataset) -> Frame:
    """Take the values out of the bits that are allocated (PS3.5, 8.1.1).

    Args:
        cells: what is allocated for the pixels, of any byte order.
        layout: the header's.
        dataset: the file's.

    Raises:
        UserError: if the bits below the values hold data that the header does not mention.
    """
    cells = _native_order(cells)
    if layout.shifted < 0 or layout.high >= layout.allocated:
        raise UserError(
            f"says that bit {layout.high} of {layout.allocated} is the highest of {layout.stored}: correct HighBit"
        )
    # Bits above are ignored, as the standard says; below, pixels of a wrong HighBit would lose their lower half.
    below = sum(2**bit for bit in set(range(layout.shifted)) - _overlay_bits(dataset))
    if np.any(cells & cells.dtype.type(below)):
        raise UserError(
            f"says that {layout.shifted} bits below its pixels are not used (BitsStored {layout.stored}, HighBit"
            f" {layout.high}), but they are: correct the file"
        )
    above = cells.dtype.itemsize * 8 - 1 - layout.high
    values = cells if layout.allocated == 1 else (cells << above) >> (above + layout.shifted)
    colours = "YBR_FULL" if layout.colours in YCBCR else layout.colours
    return Frame(values, colours, layout.stored, cells)


def _overlay_bits(dataset: Dataset) -> set[int]:
    """Unused bits of the pixels that hold overlays; other overlays have data of their own."""
    return {
        int(dataset[group, _OVERLAY_BIT].value)
        for group in _OVERLAY_GROUPS
        if dataset.get((group, _OVERLAY_BIT)) and (group, _OVERLAY_DATA) not in dataset
    }


def from_coded(values: np.ndarray, precision: int, colours: str, layout: Layout) -> Frame:
    """Bring decoded samples to the bits that the header says; they may have had more.

    Args:
        values: int32 or int64, with the sign of ``precision`` bits.
        precision: bits of a compressed sample.
        colours: their meaning.
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
        values = sign_extended(values, bits)
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if layout.signed else (0, 2**bits - 1)
    # Lossy compression goes a little beyond the range; values far beyond it show that the header is wrong.
    beyond = 2**bits // 8
    if values.min() < low - beyond or values.max() > high + beyond:
        raise UserError(f"has values of more than {bits} bits in its compressed data: correct BitsStored")
    container = next(size for size in (8, 16, 32, 64) if bits <= size)
    values = np.clip(values, low, high).astype(f"{'i' if layout.signed else 'u'}{container // 8}")
    # A window is in the header's bits, a colour in those of its sample.
    return Frame(values, colours, min(bits, precision) if layout.samples == 3 else bits, values)


def sign_extended(values: np.ndarray, bits: int) -> np.ndarray:
    """Interpret values of a number of bits as signed."""
    return np.where(values >= 2 ** (bits - 1), values - 2**bits, values)


def _native_order(values: np.ndarray) -> np.ndarray:
    return values.astype(values.dtype.newbyteorder("="), copy=False)
