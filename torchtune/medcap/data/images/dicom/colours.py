"""Colours of DICOM files -> 8-bit RGB."""

from __future__ import annotations

import numpy as np

from medcap.data.images.dicom.layout import Frame
from medcap.errors import UserError


def colour_levels(frame: Frame) -> np.ndarray:
    """Turn RGB or YCbCr of any bits into levels.

    Args:
        frame: frame of the colours RGB or YBR_FULL.

    Returns:
        uint8 ``[rows, columns, 3]``: RGB.

    Raises:
        UserError: for YCbCr of less than 8 bits.
    """
    levels = _eight_bits(frame.values, frame.bits or 8)
    if frame.colours == "RGB":
        return levels
    from pydicom.pixels.processing import convert_color_space

    if frame.bits is not None and frame.bits < 8:
        raise UserError(f"has YCbCr colours of {frame.bits} bits, which are not read: convert it to RGB")
    return convert_color_space(levels, "YBR_FULL", "RGB")


def _eight_bits(values: np.ndarray, bits: int) -> np.ndarray:
    if bits < 8:
        return np.round(values * (255.0 / (2**bits - 1))).astype(np.uint8)
    # 8-bit colours in a file that says more bits would all be black.
    return (values if values.max() < 256 else values >> (bits - 8)).astype(np.uint8)
