"""Files of a DICOM series -> slices of a volume in their order, checked to be one (PS3.3, C.7.6.2.1.1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medcap.data.images.dicom.elements import frame_item, numbers
from medcap.errors import UserError

if TYPE_CHECKING:
    from pydicom import Dataset

_SAME_DIRECTION = 1e-3  # difference of direction cosines that a file's decimals may make
_SAME_SPACING = 0.05  # share of the usual distance by which the distance of two slices may differ
_STRAIGHT = 0.02  # shift along the slice, as a share of the distance, from which on a gantry was tilted
_SHOWN_UIDS = 3


@dataclass(frozen=True)
class SliceHeader:
    """What the header of a file says of a slice.

    Attributes:
        name: the file's name.
        series: Series Instance UID.
        localizer: whether it is an overview to plan by.
        size: columns and rows.
        colours: Photometric Interpretation.
        frames: number of frames.
        orientation: direction cosines of a row, then of a column, towards the patient's left, back and head.
        position: centre of the first pixel in the same axes, in mm.
        spacing: distances of rows and of columns in mm.
        thickness: distance of two slices as the file says it; 1 where it does not.
    """

    name: str
    series: str
    localizer: bool
    size: tuple[int, int]
    colours: str
    frames: int
    orientation: tuple[float, ...]
    position: tuple[float, ...]
    spacing: tuple[float, ...]
    thickness: float


@dataclass(frozen=True, eq=False)
class SliceStack:
    """Slices that lie one behind the other; two are equal only if they are one.

    Attributes:
        names: names of the files, along the normal of the slices.
        shape: columns, rows, slices.
        affine: ``[4, 4]``: column, row and slice -> mm towards the patient's right, front and head, as NIfTI has it.
        straight: whether the slices lie straight behind each other, as they do unless a gantry was tilted.
        inverted: whether the smallest value is white (MONOCHROME1).
    """

    names: tuple[str, ...]
    shape: tuple[int, int, int]
    affine: np.ndarray
    straight: bool
    inverted: bool


def slice_header(name: str, dataset: Dataset, frames: int) -> SliceHeader:
    """Read where a slice is; what the file does not say is empty.

    Args:
        name: the file's name.
        dataset: its header.
        frames: number of its frames.
    """

    def of(sequence: str, key: str, count: int) -> tuple[float, ...]:
        found = [value for value in numbers(frame_item(dataset, 0, sequence), key) if value is not None]
        return tuple(found) if len(found) == count and np.isfinite(found).all() else ()

    measures = "PixelMeasuresSequence"
    thickness = of(measures, "SpacingBetweenSlices", 1) or of(measures, "SliceThickness", 1)
    return SliceHeader(
        name,
        str(dataset.get("SeriesInstanceUID") or ""),
        "LOCALIZER" in [str(value).upper() for value in dataset.get("ImageType") or ()],
        (int(dataset.Columns), int(dataset.Rows)),
        str(dataset.get("PhotometricInterpretation") or "").strip().upper(),
        frames,
        of("PlaneOrientationSequence", "ImageOrientationPatient", 6),
        of("PlanePositionSequence", "ImagePositionPatient", 3),
        of(measures, "PixelSpacing", 2),
        abs(thickness[0]) if thickness and thickness[0] else 1.0,
    )


def stack_slices(headers: Sequence[SliceHeader]) -> SliceStack:
    """Sort the slices of a series by their position along the normal of their planes.

    A localizer is left out if it belongs to another series.

    Args:
        headers: one for each file of a folder, in any order; at least one.

    Returns:
        The stack.

    Raises:
        UserError: if they are of several series, lie in different directions, or have different sizes or distances.
    """
    headers = _one_series(headers)
    first = headers[0]
    for header in headers:
        _check_header(header, first)
    across, down = np.array(first.orientation[:3]), np.array(first.orientation[3:])
    normal = np.cross(across, down)
    if not np.allclose([across @ across, down @ down, normal @ normal], 1, atol=0.01):
        raise UserError(f"has no usable ImageOrientationPatient in its file {first.name}: correct the files")
    headers = sorted(headers, key=lambda header: float(np.dot(header.position, normal)))
    places = np.array([header.position for header in headers])  # [n, 3] mm
    step = normal * first.thickness
    if len(headers) > 1:
        _check_distances(headers, places @ normal)
        step = (places[-1] - places[0]) / (len(places) - 1)
        _check_line(headers, places, step)
    distance = float(step @ normal)
    affine = np.eye(4)
    rows, columns = first.spacing
    affine[:3] = np.column_stack([across * columns, down * rows, step, places[0]])
    affine[:2] *= -1  # DICOM's axes lead to the left and the back
    shift = float(np.linalg.norm(step - distance * normal))
    names = tuple(header.name for header in headers)
    shape = (*first.size, len(headers))
    return SliceStack(names, shape, affine, shift <= _STRAIGHT * distance, first.colours == "MONOCHROME1")


def _one_series(headers: Sequence[SliceHeader]) -> Sequence[SliceHeader]:
    others = {header.series for header in headers if not header.localizer}
    if others:
        headers = [header for header in headers if not header.localizer or header.series in others]
    counts = Counter(header.series for header in headers)
    if len(counts) == 1:
        return headers
    named = [f"{series or 'one without a UID'} ({count} files)" for series, count in counts.most_common(_SHOWN_UIDS)]
    more = ", ..." if len(counts) > _SHOWN_UIDS else ""
    raise UserError(
        f"holds {len(counts)} DICOM series, and a volume is one: {', '.join(named)}{more}; give each a folder"
    )


def _check_header(header: SliceHeader, first: SliceHeader) -> None:
    needed = {
        "ImageOrientationPatient": header.orientation,
        "ImagePositionPatient": header.position,
        "PixelSpacing": header.spacing,
    }
    for key, value in needed.items():
        if not value:
            raise UserError(f"has no {key} in its file {header.name}, which a volume needs: name the file itself")
    if header.frames != 1:
        raise UserError(f"has {header.frames} frames in its file {header.name}: name the file itself")
    if header.colours not in ("MONOCHROME1", "MONOCHROME2"):
        raise UserError(f"has the colours {header.colours} in its file {header.name}, and a volume is of greys")
    if not np.allclose(header.orientation, first.orientation, rtol=0, atol=_SAME_DIRECTION):
        raise UserError(
            f"has slices of several orientations: {_listed(first.orientation)} in {first.name}, but"
            f" {_listed(header.orientation)} in {header.name}; give each a folder"
        )
    for what, one, other in (
        ("sizes", first.size, header.size),
        ("colours", first.colours, header.colours),
    ):
        if one != other:
            raise UserError(f"has slices of several {what}: {one} in {first.name}, but {other} in {header.name}")
    if not np.allclose(header.spacing, first.spacing, rtol=0.01):
        raise UserError(
            f"has slices of several pixel spacings: {_listed(first.spacing)} in {first.name}, but"
            f" {_listed(header.spacing)} in {header.name}"
        )


def _check_distances(headers: Sequence[SliceHeader], places: np.ndarray) -> None:
    distances = np.diff(places)
    usual = float(np.median(distances))
    for number, distance in enumerate(distances):
        pair = f"{headers[number].name} and {headers[number + 1].name}"
        if distance < 1e-3:
            raise UserError(
                f"has two slices at one position, {places[number]:g} mm: {pair}; give each phase or echo a folder"
            )
        if abs(distance - usual) > _SAME_SPACING * usual:
            raise UserError(
                f"has a gap: its slices are {usual:g} mm apart, but {distance:g} mm between"
                f" {places[number]:g} and {places[number + 1]:g} ({pair})"
            )


def _check_line(headers: Sequence[SliceHeader], places: np.ndarray, step: np.ndarray) -> None:
    expected = places[0] + np.arange(len(places))[:, None] * step
    off = np.linalg.norm(places - expected, axis=1)
    worst = int(off.argmax())
    if off[worst] > 2 * _SAME_SPACING * np.linalg.norm(step) + 0.01:
        raise UserError(f"has slices that do not lie on one line: {headers[worst].name} is {off[worst]:g} mm beside it")


def _listed(values: Sequence[float]) -> str:
    return "[" + ", ".join(f"{value:g}" for value in values) + "]"
