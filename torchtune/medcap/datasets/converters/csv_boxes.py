"""Any CSV file with a box in each row."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from medcap.data.boxes.box import Size
from medcap.datasets.conversion.base import Folders, existing_file
from medcap.datasets.conversion.boxes import BoxConverter, Source
from medcap.datasets.published.marked import (
    SHARES,
    MarkedImage,
    check_pixels,
    corners,
    gather,
    numbers_of,
    plain_phrase,
)
from medcap.datasets.published.reading import Tally, csv_heading, csv_records
from medcap.datasets.rows.delimited import delimiter_of


@dataclass(frozen=True, kw_only=True)
class CsvBoxes(BoxConverter):
    """A file of your own; the boxes of one label on one image are one object. A row without a label or with empty box
    columns says that the image is there, such as one without findings.

    Args:
        file: its path.
        image_column: names of images, relative to the data folder, which is the file's own unless another is given.
        label_column: names of objects, or sentences.
        box_columns: the four columns of the box.
        box_numbers: ``xyxy``: left, top, right, bottom; ``xywh``: left, top, width, height.
        unit: ``pixels`` or ``shares`` of the image's width and height.
        patient_column: whose image it is; None where that is not known.
    """

    name = "csv-boxes"
    converts = "a CSV file of your own: an image, a label and a box in each row"
    download = "name the file by --file, and the folder of its images by --data-dir unless it is the file's own"
    default_data = None
    file: str
    image_column: str = "image"
    label_column: str = "label"
    box_columns: tuple[str, ...] = ("x1", "y1", "x2", "y2")
    box_numbers: str = "xyxy"
    unit: str = "pixels"
    patient_column: str | None = None

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--file", required=True, help="the CSV file; tabs separate where it ends in .tsv")
        parser.add_argument("--image-column", default="image", help="column with the images' names (image)")
        parser.add_argument("--label-column", default="label", help="column with what the box shows (label)")
        parser.add_argument(
            "--box-columns",
            nargs=4,
            default=("x1", "y1", "x2", "y2"),
            metavar="COLUMN",
            help="columns with the four numbers of a box (x1 y1 x2 y2)",
        )
        parser.add_argument(
            "--box-numbers",
            choices=("xyxy", "xywh"),
            default="xyxy",
            help="what they are: two corners, or a corner, width and height (xyxy)",
        )
        parser.add_argument("--unit", choices=("pixels", "shares"), default="pixels", help="their unit (pixels)")
        parser.add_argument("--patient-column", help="column that says whose image it is, if there is one")
        super().add_arguments(parser)

    def output_name(self) -> str:
        return f"{Path(self.file).stem}.jsonl"

    def source(self, folders: Folders) -> tuple[Source, list[str]]:
        path = existing_file(self.name, self.file)
        columns = [self.image_column, self.label_column, *self.box_columns]
        columns += [self.patient_column] if self.patient_column else []
        csv_heading(path, columns, delimiter_of(path))
        folder = folders.data or os.path.dirname(self.file) or "."
        return lambda tally: self._images(path, columns, tally), [folder]

    def _images(self, path: Path, columns: list[str], tally: Tally) -> Iterator[MarkedImage]:
        marks: dict[str, list[tuple[str, object]]] = {}
        first: dict[str, tuple[str, str]] = {}
        for location, row in csv_records(path, columns, tally, delimiter_of(path)):
            name = row[self.image_column].strip()
            if not name:
                tally.skip(f"'{self.image_column}' is empty", location)
                continue
            patient = row[self.patient_column].strip() if self.patient_column else ""
            first.setdefault(name, (location, patient))
            label, fields = row[self.label_column].strip(), [row[column].strip() for column in self.box_columns]
            if not label or not any(fields):
                continue
            numbers = numbers_of(fields)
            box = corners(numbers) if self.box_numbers == "xywh" else numbers
            marks.setdefault(name, []).append((plain_phrase(label), box))
        if self.unit == "pixels":
            boxes = ((first[name][0], (box for _, box in its)) for name, its in marks.items())
            check_pixels(boxes, "give --unit shares")
        frame: Size | None = SHARES if self.unit == "shares" else None
        for name, (location, patient) in first.items():
            yield MarkedImage(location, (name,), gather(marks.get(name, ())), frame, patient)
