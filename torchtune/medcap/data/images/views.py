"""Values of any range -> the 256 levels of a picture, and what a user may choose about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from PIL import Image

from medcap.data.images.frame_choice import ALL, MIDDLE, is_even
from medcap.errors import UserError

AXES = ("sagittal", "coronal", "axial")
FITS = ("crop", "pad", "pad_mean", "squash")
_SQUARE = 1.01  # ratio of spacings up to which pixels count as square

Window = tuple[float, float]  # centre and width


@dataclass(frozen=True, slots=True)
class View:
    """Which pictures of a file are wanted, which range of their values, and how they fill a tower's square.

    ``str`` of it names what is not the default, in the form in which the chat takes it.

    Attributes:
        window: centre and width in the file's own units (Hounsfield units in CT); three of them, which become the
            red, the green and the blue channel; or the number, from 0, of one of the windows that a DICOM file
            offers; None takes the file's first window, or where it has none the range of the values.
        frames: DICOM frames or slices of a volume: ``all``, ``middle``, a number from 0, several numbers, or
            ``N even``, see :func:`choose_frames`.
        axis: one of ``AXES``: which slices of a volume.
        fit: how a picture that is not square becomes a tower's input: ``crop`` resizes the short side and cuts out
            the centre, ``pad`` lays it in the middle of a black square, ``pad_mean`` of one in the tower's mean
            colour, ``squash`` resizes both sides; None leaves it to the tower.
    """

    window: Window | tuple[Window, Window, Window] | int | None = None
    frames: str | int | tuple[int, ...] = MIDDLE
    axis: str = "axial"
    fit: str | None = None

    @property
    def has_several_frames(self) -> bool:
        """Whether it may mean more than one picture."""
        return isinstance(self.frames, tuple) or self.frames == ALL or is_even(self.frames)

    @property
    def three_windows(self) -> tuple[Window, Window, Window] | None:
        """The windows of the three channels; None where there is one for all."""
        window = self.window
        return window if isinstance(window, tuple) and isinstance(window[0], tuple) else None  # type: ignore[return-value]

    @property
    def one_window(self) -> Window | None:
        """Centre and width of the window of all channels; None where they are not given."""
        return self.window if isinstance(self.window, tuple) and self.three_windows is None else None  # type: ignore[return-value]

    def __str__(self) -> str:
        default = View()
        words = []
        for item in fields(self):
            value = getattr(self, item.name)
            if value != getattr(default, item.name):
                words.append(f"{item.name}={_text(value)}")
        return " ".join(words)


def _text(value: object) -> str:
    """Return a value in the form in which the chat takes it: no spaces, ``/`` between windows."""
    if isinstance(value, tuple):
        return ("/" if isinstance(value[0], tuple) else ",").join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value).replace(" ", "")


DEFAULT_VIEW = View()


def through_windows(view: View, levels: Callable[[View], np.ndarray]) -> np.ndarray:
    """Turn greys into levels through the window of a view; three windows make three channels.

    Args:
        view: any.
        levels: makes uint8 ``[rows, columns]`` for a view with one window.

    Returns:
        uint8 ``[rows, columns]``, or ``[rows, columns, 3]`` for three windows.
    """
    if view.three_windows is None:
        return levels(view)
    return np.stack([levels(replace(view, window=window)) for window in view.three_windows], axis=-1)


def stretch(values: np.ndarray, low: float | None = None, high: float | None = None) -> np.ndarray:
    """Map a range of values to 0..255.

    Args:
        values: any shape and type; those that are not finite become ``low``.
        low: value that becomes 0, as do all values below; by default the smallest finite value.
        high: value that becomes 255, as do all values above; by default the largest finite value.

    Returns:
        uint8 of the same shape; all 0 where the range is empty.
    """
    values = np.asarray(values, dtype=np.float64)
    finite = np.isfinite(values)
    low = low if low is not None else float(values[finite].min()) if finite.any() else 0.0
    high = high if high is not None else float(values[finite].max()) if finite.any() else 0.0
    if not high > low:
        return np.zeros(values.shape, dtype=np.uint8)
    if not 1e-300 < high - low < np.inf:
        # The reciprocal, or the difference, would be infinite.
        factor = 2.0**-2 if high - low > 1 else 2.0**600
        values, low, high = values * factor, low * factor, high * factor
    levels = (np.where(finite, values, low) - low) * (255.0 / (high - low))
    return np.round(np.clip(levels, 0.0, 255.0)).astype(np.uint8)


def apply_window(values: np.ndarray, center: float, width: float) -> np.ndarray:
    """Map the values from ``center - width / 2`` to ``center + width / 2`` to 0..255; uint8 of the same shape."""
    low, high = center - width / 2, center + width / 2
    if not low < high:
        # The window is so narrow that both ends are one number: apply a threshold.
        return np.where(np.asarray(values) > center, 255, 0).astype(np.uint8)
    return stretch(values, low, high)


def square_pixels(picture: Image.Image, row_spacing: float, column_spacing: float, max_pixels: int) -> Image.Image:
    """Resize a picture whose pixels are not square, so that shapes are what they are in the patient.

    Args:
        picture: any mode that can be interpolated.
        row_spacing: distance of the centres of neighbouring rows, in any unit.
        column_spacing: distance of the centres of neighbouring columns, in the same unit.
        max_pixels: width x height above which the result is refused.

    Returns:
        The picture with square pixels of the finer spacing; itself where they are square or a spacing is unknown.

    Raises:
        UserError: if it would be too large.
    """
    size = square_size(picture.size, row_spacing, column_spacing, max_pixels)
    return picture if size == picture.size else picture.resize(size, Image.Resampling.BICUBIC)


def square_size(size: tuple[int, int], row_spacing: float, column_spacing: float, max_pixels: int) -> tuple[int, int]:
    """Return the width and the height that :func:`square_pixels` gives a picture of a size."""
    fine, coarse = sorted((row_spacing, column_spacing))
    if not (fine > 0 and np.isfinite(coarse) and coarse / fine > _SQUARE):
        return size
    width = max(1, round(size[0] * (column_spacing / fine)))
    height = max(1, round(size[1] * (row_spacing / fine)))
    if width * height > max_pixels:
        raise UserError(
            f"is {width} x {height} with square pixels (its spacing is {row_spacing:g} x {column_spacing:g}), more than"
            f" the {max_pixels:,} pixels allowed"
        )
    return width, height
