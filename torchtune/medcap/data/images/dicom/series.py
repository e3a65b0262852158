"""A folder that holds one DICOM series: one volume, seen along any of the patient's axes.

Slices of the acquired direction are decoded one by one, so eight of five hundred read eight files; a view along another
axis, or one that needs the range of all values, reads all of them.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from medcap.data.images.dicom.file import DicomFile
from medcap.data.images.dicom.greys import shown_levels
from medcap.data.images.dicom.stack import SliceHeader, SliceStack, stack_slices
from medcap.data.images.frame_choice import choose_frames
from medcap.data.images.pixel_samples import check_pixels
from medcap.data.images.views import AXES, View, square_pixels, square_size, through_windows
from medcap.data.images.volume import MAX_VOLUME_BYTES, Volume
from medcap.errors import UserError, ViewError, is_of_the_machine

_KEPT_STACKS = 512
Keep = Callable[[Callable[[], Volume]], Volume]
# The name of a file in the folder, and whether its pixels are wanted -> the file; None for one that is not DICOM.
OpenSlice = Callable[[str, bool], DicomFile | None]


@dataclass(frozen=True)
class _Slice:
    """What a volume keeps of a slice; ``shown`` is None where all is."""

    values: np.ndarray
    shown: np.ndarray | None
    levels_range: tuple[float, float] | None


class SeriesCache:
    """Keeps the order of the slices of many series: reading the headers of one takes a second or more."""

    def __init__(self) -> None:
        self._stacks: OrderedDict[Any, SliceStack] = OrderedDict()

    def get(self, folder: str, names: Sequence[str], open_slice: OpenSlice) -> SliceStack:
        """Return the stack of a folder's files, read only where a file is another than before.

        Args:
            folder: the folder.
            names: names of its files.
            open_slice: opens one of them.

        Raises:
            UserError: if they are not one volume.
        """
        states = [os.stat(os.path.join(folder, name)) for name in names]
        key = (folder, hash(tuple((name, at.st_size, at.st_mtime_ns) for name, at in zip(names, states, strict=True))))
        found = self._stacks.get(key)
        if found is None:
            found = self._stacks[key] = _read_stack(names, open_slice)
            while len(self._stacks) > _KEPT_STACKS:
                self._stacks.popitem(last=False)
        return found


class DicomSeries:
    """One series.

    Args:
        stack: the order of its slices.
        open_slice: opens one of its files.
        max_pixels: width x height above which a slice is refused.
        keep: returns the volume of this series, which its argument reads; it may have kept it.

    Attributes:
        format: ``DICOM``.
        frames: slices along the axis that was looked along last, at first the acquired one.

    Raises:
        UserError: if it is too large.
    """

    format = "DICOM"

    def __init__(
        self, stack: SliceStack, open_slice: OpenSlice, max_pixels: int, keep: Keep = lambda load: load()
    ) -> None:
        try:
            from nibabel.orientations import io_orientation
        except ImportError:
            raise UserError("is a DICOM series: reading it needs nibabel, pip install 'medcap[dicom]'") from None
        self._stack, self._open, self._keep = stack, open_slice, keep
        self.max_pixels = max_pixels
        self._orientation = io_orientation(
            stack.affine
        )  # [3, 2]: the patient's axis of each of ours, and its direction
        self._order = self._orientation[:, 0].astype(int).argsort()
        self.frames = stack.shape[2]
        for axis in AXES:
            width, height = (self.count(other) for other in AXES if other != axis)
            check_pixels((width, height), max_pixels)
        voxels = int(np.prod(stack.shape, dtype=np.int64))
        if 2 * voxels > MAX_VOLUME_BYTES:
            raise UserError(f"is a series of {voxels:,} voxels, more than the {MAX_VOLUME_BYTES // 2:,} allowed")

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows."""
        return self._stack.shape[:2]

    def count(self, axis: str) -> int:
        """Return the number of slices along one of ``AXES``."""
        return self._stack.shape[self._order[AXES.index(axis)]]

    def shown_size(self, view: View) -> tuple[int, int]:
        """Return width and height of the first picture that :meth:`pictures` would cut."""
        choose_frames(view.frames, self.count(view.axis))
        across, down = (axis for axis in AXES if axis != view.axis)
        spacing = self._spacing()
        size = self.count(across), self.count(down)
        return square_size(size, spacing[AXES.index(down)], spacing[AXES.index(across)], self.max_pixels)

    def pictures(self, view: View) -> Iterator[tuple[int, Image.Image]]:
        """Cut slices, one after the other, turned as :class:`medcap.data.images.nifti.NiftiFile` turns them.

        Without a window, the window or table of the middle one of the acquired slices is applied, so that all have
        one contrast; where it has none, the range of the whole volume is shown.

        Args:
            view: which slices, counted from the patient's left, back or feet; along which axis; which windows.

        Yields:
            The slice's number from 0, and the picture, mode L or RGB.

        Raises:
            UserError: if there is no such slice or window, or a file cannot be read.
        """
        self.frames = self.count(view.axis)
        acquired = view.axis == AXES[int(self._orientation[2, 0])]
        if not acquired and not self._stack.straight:
            raise ViewError(f"was acquired with a tilted gantry: it has no undistorted {view.axis} slices")
        middle = self._file(self._stack.shape[2] // 2, whole=False)
        for number in choose_frames(view.frames, self.frames):
            if acquired and not self._needs_range(middle, view):
                volume, position = self._single(number), 0
            else:
                volume, position = self._keep(self._load), number
            values, shown = volume.slice(view.axis, position), volume.shown_of(view.axis, position)

            def levels(one: View, volume: Volume = volume, values: Any = values, shown: Any = shown) -> np.ndarray:
                display = middle.display(one)
                ends = (0.0, 0.0) if display is not None else volume.named or volume.value_range
                return shown_levels(values, shown, display, ends, self._stack.inverted)

            picture = Image.fromarray(through_windows(view, levels))
            yield number, square_pixels(picture, *volume.spacing_of(view.axis), self.max_pixels)

    @staticmethod
    def _needs_range(middle: DicomFile, view: View) -> bool:
        return view.three_windows is None and middle.display(view) is None

    def _single(self, number: int) -> Volume:
        """Return one acquired slice as a volume."""
        last = self._stack.shape[2] - 1
        return self._turned([self._greys(number if self._orientation[2, 1] > 0 else last - number)])

    def _load(self) -> Volume:
        return self._turned([self._greys(number) for number in range(self._stack.shape[2])])

    def _turned(self, slices: Sequence[_Slice]) -> Volume:
        from nibabel.orientations import apply_orientation

        values = np.stack([each.values.T for each in slices], axis=-1)  # [columns, rows, slices]
        shown = None
        if any(each.shown is not None for each in slices):
            parts = [np.True_ if each.shown is None else each.shown.T for each in slices]
            stacked = np.stack([np.broadcast_to(part, values.shape[:2]) for part in parts], axis=-1)
            shown = apply_orientation(stacked, self._orientation)
        ranges = [each.levels_range for each in slices if each.levels_range is not None]
        named = None
        if len(ranges) == len(slices):
            named = min(low for low, _ in ranges), max(high for _, high in ranges)
        return Volume(apply_orientation(values, self._orientation), self._spacing(), shown, named=named)

    def _spacing(self) -> tuple[float, float, float]:
        """Return the distance of the slices along each of ``AXES``."""
        lengths = np.linalg.norm(self._stack.affine[:3, :3], axis=0)
        sagittal, coronal, axial = map(float, lengths[self._order])
        return sagittal, coronal, axial

    def _greys(self, number: int) -> _Slice:
        name = self._stack.names[number]
        with _NamedFile(name):
            greys = self._file(number, whole=True).greys()
        # Of a volume, a slice may be nothing but padding.
        shown = greys.shown & ~greys.padding
        return _Slice(_compact(greys.values), None if shown.all() else shown, greys.levels_range)

    def _file(self, number: int, whole: bool) -> DicomFile:
        name = self._stack.names[number]
        with _NamedFile(name):
            found = self._open(name, whole)
            if found is None:
                raise UserError("is not DICOM any more")
            return found


def _read_stack(names: Sequence[str], open_slice: OpenSlice) -> SliceStack:
    headers: list[SliceHeader] = []
    for name in names:
        with _NamedFile(name):
            file = open_slice(name, False)
            if file is not None:
                headers.append(file.slice_header(name))
    if not headers:
        raise UserError("is a folder without DICOM files: only a folder that holds one DICOM series is an image")
    return stack_slices(headers)


class _NamedFile:
    """Say which file of a series an error is about."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if not isinstance(error, Exception) or is_of_the_machine(error):
            return
        reason = str(error) if isinstance(error, UserError) else f"is damaged: {' '.join(str(error).split())}"
        raise UserError(f"cannot be read: its file {self._name} {reason}") from error


def _compact(values: np.ndarray) -> np.ndarray:
    """Return the same numbers in as few bytes as hold them exactly."""
    if values.dtype.kind in "iu" and values.dtype.itemsize <= 2:
        return values
    for kind in (np.int16, np.float32):
        with np.errstate(invalid="ignore", over="ignore"):
            small = values.astype(kind)
        if np.array_equal(small, values, equal_nan=kind is np.float32):
            return small
    return values
