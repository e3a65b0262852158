"""Samples of any depth, sign and kind -> an 8-bit picture, for files whose samples Pillow cuts down to 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

from medcap.data.images.views import View, apply_window, stretch, through_windows
from medcap.errors import TooManyPixelsError, UserError, ViewError

MAX_PIXELS = 50_000_000
_BLOCK = 2**22  # samples that are turned into levels at a time: float64 of all of them would take gigabytes


@dataclass(frozen=True)
class PixelSamples:
    """What the pixels of a file hold.

    Attributes:
        colours: ``[height, width, 1]`` grey or ``[height, width, 3]`` RGB, any numeric type.
        alpha: ``[height, width]`` from 0, transparent, to 1; None where the file has none.
        full: the value of full brightness, for samples of at most 8 bits without a sign; None for others, which are
            stretched from their own minimum and maximum.
        white_is_zero: whether the smallest value is white.
        associated: whether the colours were multiplied by alpha.
    """

    colours: np.ndarray
    alpha: np.ndarray | None = None
    full: int | None = None
    white_is_zero: bool = False
    associated: bool = False


def check_pixels(size: tuple[int, int], max_pixels: int) -> None:
    """Refuse a picture whose width x height is above a limit, before it is decoded."""
    width, height = size
    if width * height > max_pixels:
        raise TooManyPixelsError(f"is {width} x {height}, more than the {max_pixels:,} pixels allowed")


def to_picture(samples: PixelSamples, view: View) -> Image.Image:
    """Turn samples into a picture.

    Samples of more than 8 bits, signed ones and floats are stretched from their own minimum and maximum, or windowed.
    Colours share one range, so that hues stay; what alpha hides does not count. Transparency is laid on white. An alpha
    of 0 everywhere hides the whole picture, which cannot be intended: it is ignored.

    Args:
        samples: samples of one picture.
        view: its window, in stored values, or three of them for greys.

    Returns:
        Mode L or RGB.

    Raises:
        UserError: if there is not one finite value, or colours are to be seen through three windows.
    """
    colours, alpha, associated = samples.colours, samples.alpha, samples.associated
    if alpha is not None and (not alpha.any() or alpha.min() >= 1):
        alpha, associated = None, False
    if alpha is not None and associated and (samples.full is None or samples.white_is_zero):
        # Stretching and inverting move the zero point, so the colours themselves are needed.
        with np.errstate(divide="ignore", invalid="ignore"):
            colours = np.where(alpha[..., None] > 0, colours / alpha[..., None], 0)
        associated = False
    if view.three_windows is not None and samples.full is None:
        if colours.shape[2] != 1:
            raise ViewError("has colours, and three windows are for greys: give one window")
        levels = through_windows(view, lambda one: _levels(colours, None, alpha, one)[..., 0])
    else:
        levels = _levels(colours, samples.full, alpha, view)
    if samples.white_is_zero:
        levels = 255 - levels
    if alpha is not None:
        shown = levels if associated else levels * alpha[..., None]
        levels = np.clip(np.round(shown + 255 * (1 - alpha[..., None])), 0, 255).astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[2] == 1 else levels)


def _levels(colours: np.ndarray, full: int | None, alpha: np.ndarray | None, view: View) -> np.ndarray:
    """Levels from 0 to 255, uint8 of the shape of ``colours``."""
    if full == 255 and colours.dtype == np.uint8:
        return colours
    if full is not None:
        low, high = 0.0, float(full)
    elif view.one_window is not None:
        low = high = 0.0  # the window says
    else:
        low, high = _visible_range(colours, alpha)
    levels = np.empty(colours.shape, np.uint8)
    rows = max(1, _BLOCK // max(1, colours[0].size))
    for start in range(0, len(colours), rows):
        part = colours[start : start + rows]
        if full is None and view.one_window is not None:
            levels[start : start + rows] = apply_window(part, *view.one_window)
        else:
            levels[start : start + rows] = stretch(part, low, high)
    return levels


def _visible_range(colours: np.ndarray, alpha: np.ndarray | None) -> tuple[float, float]:
    """Return the smallest and the largest finite value of the pixels that are not wholly transparent."""
    visible = colours if alpha is None else colours[alpha > 0]
    if visible.dtype.kind == "f":
        visible = visible[np.isfinite(visible)]
        if not visible.size:
            raise UserError("holds not one finite value")
    return float(visible.min()), float(visible.max())
