"""Stored greys -> units of the modality -> window -> 256 levels.

The order and the formulas are those of DICOM PS3.3, C.11.1 (modality LUT and rescale) and C.11.2 (VOI LUT and
window); where several frames have their own values, C.7.6.16 (functional groups).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medcap.data.images.dicom.elements import frame_item, integers, numbers
from medcap.data.images.dicom.layout import Frame
from medcap.data.images.dicom.lookup_table import LookupTable, read_table
from medcap.data.images.views import View, apply_window, stretch, through_windows
from medcap.errors import UserError, ViewError

if TYPE_CHECKING:
    from pydicom import Dataset

_WINDOW_HELP = "give --window CENTER WIDTH"
Transform = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Greys:
    """A grey frame in units of the modality.

    Attributes:
        values: ``[rows, columns]``.
        shown: bool ``[rows, columns]``, False for what the file calls padding, unless all is, and for what is not a
            number.
        padding: bool ``[rows, columns]``, what the file calls padding.
        levels_range: values of black and white where the stored values are levels already, as those of a PNG are.
    """

    values: np.ndarray
    shown: np.ndarray
    padding: np.ndarray
    levels_range: tuple[float, float] | None


def grey_values(frame: Frame, number: int, dataset: Dataset, little_endian: bool) -> Greys:
    """Turn a grey frame into units of the modality.

    Args:
        frame: frame with stored values ``[rows, columns]``.
        number: the frame's, from 0.
        dataset: the file's.
        little_endian: its byte order.

    Returns:
        The values.

    Raises:
        UserError: if a table or a number that is needed cannot be read, or no pixel is finite.
    """
    if dataset.get("PixelPresentation") in ("COLOR", "MIXED"):
        raise UserError("shows colours over its greys (Supplemental Palette), which are not read: convert it to RGB")
    item = frame_item(dataset, number, "PixelValueTransformationSequence")
    transform = _modality_transform(item, little_endian)
    values = transform(frame.values)
    shown = np.isfinite(values)
    if not shown.any():
        raise UserError("has no pixel with a finite value")
    padding = _padding(frame, dataset, little_endian)
    if (shown & ~padding).any():
        shown &= ~padding
    stored, kept = frame.values[shown], values[shown]
    if kept.min() == kept.max() and stored.min() != stored.max():
        raise UserError("has a modality LUT or rescale that gives all its pixels one value: correct the file")
    possible = None
    if frame.bits is not None and frame.bits <= 8 and frame.values.dtype.kind == "u":
        possible = transform(np.arange(2**frame.bits))
    levels_range = None if possible is None else (float(possible.min()), float(possible.max()))
    return Greys(values, shown, padding, levels_range)


def grey_display(number: int, dataset: Dataset, little_endian: bool, view: View) -> Transform | None:
    """Return the window or VOI LUT of a frame: values in units of the modality -> uint8 levels.

    Args:
        number: the frame's, from 0.
        dataset: the file's.
        little_endian: its byte order.
        view: the window that is wanted.

    Returns:
        The function; None where the view names no window and the file has none.

    Raises:
        UserError: if there is no such window, or a table that is needed cannot be read.
    """
    return _display(frame_item(dataset, number, "FrameVOILUTSequence"), little_endian, view)


def shown_levels(
    values: np.ndarray,
    shown: np.ndarray | None,
    display: Transform | None,
    ends: tuple[float, float],
    inverted: bool,
) -> np.ndarray:
    """Turn values into levels.

    Args:
        values: in units of the modality.
        shown: bool of the same shape; what is not shown is black. None shows all.
        display: window or VOI LUT; None for the range ``ends``.
        ends: values of black and white.
        inverted: MONOCHROME1, whose smallest value is white.

    Returns:
        uint8 of the same shape.
    """
    levels = stretch(values, *ends) if display is None else display(values)
    if inverted:
        levels = 255 - levels
    return (levels if shown is None else np.where(shown, levels, 0)).astype(np.uint8)


def grey_levels(frame: Frame, number: int, dataset: Dataset, little_endian: bool, view: View) -> np.ndarray:
    """Turn a grey frame into levels; what the file calls padding, and what is not a number, is black.

    Args:
        frame: frame with stored values ``[rows, columns]``.
        number: the frame's, from 0.
        dataset: the file's.
        little_endian: its byte order.
        view: the window that is wanted, or three of them.

    Returns:
        uint8 ``[rows, columns]``, or ``[rows, columns, 3]`` for three windows; 0 black, MONOCHROME1 inverted.

    Raises:
        UserError: if there is no such window, or a table or a number that is needed cannot be read.
    """
    greys = grey_values(frame, number, dataset, little_endian)
    kept = greys.values[greys.shown]
    ends = greys.levels_range or (float(kept.min()), float(kept.max()))

    def levels(one: View) -> np.ndarray:
        display = grey_display(number, dataset, little_endian, one)
        return shown_levels(greys.values, greys.shown, display, ends, frame.colours == "MONOCHROME1")

    return through_windows(view, levels)


def window_levels(values: np.ndarray, center: float, width: float, function: str = "LINEAR") -> np.ndarray:
    """Apply a window (PS3.3, C.11.2.1.2 and C.11.2.1.3).

    Args:
        values: values in units of the modality.
        center: centre of the window.
        width: width of the window, above 0.
        function: LINEAR, LINEAR_EXACT or SIGMOID.

    Returns:
        uint8 of the same shape.

    Raises:
        UserError: for another function.
    """
    if function == "LINEAR_EXACT" or (function == "LINEAR" and width < 1):
        return apply_window(values, center, width)
    if function == "LINEAR":
        if width == 1:
            return np.where(values > center - 0.5, 255, 0).astype(np.uint8)
        return apply_window(values, center - 0.5, width - 1)
    if function == "SIGMOID":
        exponent = np.clip(-4 * (np.asarray(values, dtype=np.float64) - center) / width, -700, 700)
        return stretch(1 / (1 + np.exp(exponent)), 0, 1)
    raise UserError(f"has the window function {function}: {_WINDOW_HELP}")


def _modality_transform(item: Dataset, little_endian: bool) -> Transform:
    """Turn stored values into units of the modality."""
    tables = [table for table in item.get("ModalityLUTSequence") or [] if len(table)]
    if tables:
        return read_table(tables[0], little_endian, "modality LUT").apply
    slope, intercept = _first(item, "RescaleSlope", 1.0), _first(item, "RescaleIntercept", 0.0)
    # A slope of 0, which secondary captures have, does not define a unit: the stored values are taken.
    if (slope, intercept) == (1.0, 0.0) or not slope or not math.isfinite(slope) or not math.isfinite(intercept):
        return lambda values: values
    return lambda values: values.astype(np.float64) * slope + intercept


def _first(item: Dataset, key: str, default: float) -> float:
    found = numbers(item, key)
    if not found:
        return default
    if found[0] is None:
        raise UserError(f"has a {key} that is not a number: correct the file")
    return found[0]


def _display(item: Dataset, little_endian: bool, view: View) -> Transform | None:
    """Return the window or VOI LUT: values in units of the modality -> uint8 levels; None where the file has none."""
    function = str(item.get("VOILUTFunction") or "LINEAR").upper()
    if view.one_window is not None:
        center, width = view.one_window
        return lambda values: window_levels(values, center, width, function)
    windows = [
        (center, width)
        for center, width in zip(numbers(item, "WindowCenter"), numbers(item, "WindowWidth"), strict=False)
        if center is not None and width is not None and width > 0 and math.isfinite(center) and math.isfinite(width)
    ]
    if isinstance(view.window, int) and windows:
        return _window(windows, view.window, function)
    # A table is made for its image; a window approximates it.
    tables, problem = _voi_tables(item, little_endian)
    if tables:
        return _table(tables, view.window if isinstance(view.window, int) else 0)
    if windows:
        return _window(windows, 0, function)
    if problem is not None:
        raise UserError(f"{problem}, or {_WINDOW_HELP}")
    if isinstance(view.window, int):
        raise ViewError(f"has no window {view.window}: it has 0, numbered from 0")
    return None


def _window(windows: list[tuple[float, float]], number: int, function: str) -> Transform:
    center, width = windows[_checked(number, len(windows))]
    return lambda values: window_levels(values, center, width, function)


def _table(tables: list[LookupTable], number: int) -> Transform:
    table = tables[_checked(number, len(tables))]
    # White is the largest entry: the bits that the descriptor says are wrong in many files.
    return lambda values: stretch(table.apply(values), 0, float(table.entries.max()))


def _checked(number: int, count: int) -> int:
    if not 0 <= number < count:
        raise ViewError(f"has no window {number}: it has {count}, numbered from 0")
    return number


def _voi_tables(item: Dataset, little_endian: bool) -> tuple[list[LookupTable], UserError | None]:
    """Return the usable VOI LUTs, and what is wrong with the first of the others; skip empty items."""
    tables: list[LookupTable] = []
    problem: UserError | None = None
    for found in item.get("VOILUTSequence") or []:
        if not len(found):
            continue
        try:
            table = read_table(found, little_endian, "VOI LUT")
            if table.entries.min() == table.entries.max():
                raise UserError("has a VOI LUT that makes all pixels one level: correct the file")
            tables.append(table)
        except UserError as error:
            problem = problem or error
    return tables, problem


def _padding(frame: Frame, dataset: Dataset, little_endian: bool) -> np.ndarray:
    """Return which pixels only fill up the rectangle (PS3.3, C.7.5.1.1.2): bool ``[rows, columns]``."""
    if frame.bits is None:
        for kind in ("Float", "DoubleFloat"):
            given = [*numbers(dataset, f"{kind}PixelPaddingValue")[:1]]
            given += numbers(dataset, f"{kind}PixelPaddingRangeLimit")[:1] if given else []
            ends = [end for end in given if end is not None]
            if ends and len(ends) == len(given):
                low, high = (frame.values.dtype.type(end) for end in (min(ends), max(ends)))
                return (frame.values >= low) & (frame.values <= high)
        return np.zeros(frame.values.shape, dtype=bool)
    ends = integers(dataset, "PixelPaddingValue", little_endian)[:1]
    ends += integers(dataset, "PixelPaddingRangeLimit", little_endian)[:1] if ends else []
    if not ends:
        return np.zeros(frame.values.shape, dtype=bool)
    signed = frame.values.dtype.kind == "i"
    as_stored = [stored for end in ends if (stored := _as_stored(end, frame.bits, signed)) is not None]
    if len(as_stored) == len(ends):
        return (frame.values >= min(as_stored)) & (frame.values <= max(as_stored))
    # The values lie outside the stored bits: the padding uses all allocated bits.
    ends = [_sixteen_bits(end, signed) for end in ends]
    return (frame.cells >= min(ends)) & (frame.cells <= max(ends))


def _as_stored(value: int, bits: int, signed: bool) -> int | None:
    """Return a padding value as a stored value: its 16 bits in the type of the pixels, whatever type the file says.

    Returns:
        The value; None where a stored value of this few bits cannot equal it.
    """
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    value = _sixteen_bits(value, signed)
    if low <= value <= high:
        return value
    if signed and 0 <= value < 2**bits:
        return value - 2**bits  # only the stored bits were written
    if not signed and value == 2**16 - 1:
        return high  # all ones
    return None


def _sixteen_bits(value: int, signed: bool) -> int:
    if not -(2**15) <= value < 2**16:
        return value  # written with 32 bits
    return (value + 2**15) % 2**16 - 2**15 if signed else value % 2**16
