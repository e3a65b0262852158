"""A volume in the patient's axes: its slices as radiologists look at them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from medcap.data.images.views import AXES
from medcap.errors import UserError

MAX_VOLUME_BYTES = 2 * 2**30  # in memory, of one volume
MAX_KEPT_BYTES = 2**29  # of the volume that a reader keeps for its next slice


@dataclass(frozen=True)
class Volume:
    """Values of a volume, turned to the patient.

    Attributes:
        values: ``[sagittal, coronal, axial]``: from the patient's left to the right, back to front, feet to head.
        spacing: distances of neighbouring values along these axes, in mm.
        shown: bool of the same shape, False where values only fill up; None where all count.
        slope: a value is ``values * slope + intercept``.
        intercept: see ``slope``.
        named: range of values that the file asks to be shown, low and high; None where it names none.
    """

    values: np.ndarray
    spacing: tuple[float, float, float]
    shown: np.ndarray | None = None
    slope: float = 1.0
    intercept: float = 0.0
    named: tuple[float, float] | None = None

    def slice(self, axis: str, number: int) -> np.ndarray:
        """Return a slice: the head or the front at the top, the patient's right (sagittal: the front) on the left.

        Args:
            axis: one of ``AXES``.
            number: number of the slice, from 0 at the patient's left, back or feet.

        Returns:
            ``[rows, columns]`` as stored.
        """
        return _slice(self.values, axis, number)

    def shown_of(self, axis: str, number: int) -> np.ndarray | None:
        """Return which values of a slice count; None where all do."""
        return None if self.shown is None else _slice(self.shown, axis, number)

    def spacing_of(self, axis: str) -> tuple[float, float]:
        """Distances of the rows and of the columns of a slice."""
        rows, columns = (self.spacing[other] for other in (2, 1, 0) if AXES[other] != axis)
        return rows, columns

    @cached_property
    def value_range(self) -> tuple[float, float]:
        """The smallest and the largest finite value that counts, of the whole volume.

        Raises:
            UserError: if there is none.
        """
        low, high = sorted(_range(self.values, self.shown) * self.slope + self.intercept)
        return float(low), float(high)


class VolumeCache:
    """Keeps the volume that was read last: a row that shows eight slices of it reads and inflates its file once.

    It may be shared by threads, which wait for each other while one reads; another process begins with an empty one.
    """

    def __init__(self) -> None:
        self._begin()

    def __reduce__(self) -> tuple[Any, ...]:
        return VolumeCache, ()

    def get(self, key: Hashable, load: Callable[[], Volume]) -> Volume:
        """Return the volume of a key, which ``load`` reads unless it was the last one.

        Args:
            key: names the file and its state.
            load: reads it.
        """
        if self._process != os.getpid():
            # A forked process has a copy of the lock, which another thread of its parent may have held.
            self._begin()
        with self._lock:
            if self._key != key:
                self._key = self._volume = None
                volume = load()
                if volume.values.nbytes > MAX_KEPT_BYTES:
                    return volume
                self._key, self._volume = key, volume
            assert self._volume is not None, "kept with its key"
            return self._volume

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._key: Hashable | None = None
        self._volume: Volume | None = None


def _slice(values: np.ndarray, axis: str, number: int) -> np.ndarray:
    # An index, not np.take: that copies the whole volume where its memory is in another order, for each slice anew.
    index: list[Any] = [slice(None)] * 3
    index[AXES.index(axis)] = number
    # [columns, rows], both from the patient's left, back and feet: turned, then read from the other ends.
    return values[tuple(index)].T[::-1, ::-1]


def _range(values: np.ndarray, shown: np.ndarray | None) -> np.ndarray:
    """Return the smallest and the largest finite value, float64 [2], part by part to save memory."""
    limits = []
    for number, part in enumerate(values):
        if shown is not None:
            part = part[shown[number]]
        if part.dtype.kind == "f":
            part = part[np.isfinite(part)]
        if part.size:
            limits.append((float(part.min()), float(part.max())))
    if not limits:
        raise UserError("holds not one finite value")
    return np.array([min(low for low, _ in limits), max(high for _, high in limits)])
