"""DICOM series made for a test: one file for each slice of a volume, acquired in any direction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from helpers.dicom_files import write_dicom

# Directions of a row and of a column of the acquired slices, towards the patient's left, back and head, and how a
# volume [sagittal, coronal, axial], from the left, the back and the feet, becomes [slices, rows, columns].
DIRECTIONS = {
    "axial": ((1, 0, 0, 0, 1, 0), lambda volume: volume.transpose(2, 1, 0)[:, ::-1, ::-1]),
    "coronal": ((1, 0, 0, 0, 0, -1), lambda volume: volume.transpose(1, 2, 0)[::-1, ::-1, ::-1]),
    "sagittal": ((0, 1, 0, 0, 0, -1), lambda volume: volume.transpose(0, 2, 1)[:, ::-1, ::-1]),
}


def write_series(
    folder: Path,
    volume: np.ndarray,
    acquired: str = "axial",
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    **elements: Any,
) -> Path:
    """Write a volume as a series; the names of the files say nothing about their order.

    Args:
        folder: where; made if it is not there.
        volume: ``[sagittal, coronal, axial]`` stored values, from the patient's left, back and feet.
        acquired: direction of the slices.
        spacing: mm along the three axes of ``volume``.
        elements: of every file, by keyword.
    """
    orientation, arranged = DIRECTIONS[acquired]
    slices = np.ascontiguousarray(arranged(volume))
    along = {"axial": 2, "coronal": 1, "sagittal": 0}[acquired]
    rows, columns = {"axial": (1, 0), "coronal": (2, 0), "sagittal": (2, 1)}[acquired]
    normal = np.cross(orientation[:3], orientation[3:])
    folder.mkdir(parents=True, exist_ok=True)
    for number, pixels in enumerate(slices):
        name = f"{(7 * number + 3) % len(slices):03d}.dcm" if len(slices) % 7 else f"{number:03d}.dcm"
        own = {
            "SeriesInstanceUID": "1.2.3",
            "ImageOrientationPatient": list(map(float, orientation)),
            "ImagePositionPatient": [float(value) for value in normal * spacing[along] * number],
            "PixelSpacing": [spacing[rows], spacing[columns]],
            **elements,
        }
        write_dicom(folder / name, pixels, **own)
    return folder
