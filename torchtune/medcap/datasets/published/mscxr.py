"""MS-CXR's file: sentences of chest X-ray reports with the boxes of what they say.

``MS_CXR_Local_Alignment_v1.1.0.csv`` (PhysioNet) has a line for each box: ``dicom_id``, ``category_name``,
``label_text``, ``path`` (as in MIMIC-CXR-JPG, ``files/p10/p10000032/s50414267/....jpg``), ``x``, ``y``, ``w``, ``h`` in
pixels of an image of ``image_width`` x ``image_height``, and since 1.1.0 ``split``. Several lines of one image and one
sentence are one answer of several boxes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from medcap.data.boxes.box import Size
from medcap.datasets.published.finding import Layout
from medcap.datasets.published.marked import MarkedImage, corners, gather, numbers_of, size_of_fields
from medcap.datasets.published.reading import Tally, csv_heading, csv_records
from medcap.errors import UserError

COLUMNS = ("dicom_id", "category_name", "label_text", "path", "x", "y", "w", "h", "image_width", "image_height")
LAYOUT = Layout(
    ("MS-CXR", "ms-cxr", "MS_CXR", "ms-cxr/1.1.0", "."),
    {"csv": ("MS_CXR_Local_Alignment_v*.csv", "*/MS_CXR_Local_Alignment_v*.csv")},
    ("",),
)
# Folders that may hold MIMIC-CXR-JPG's ``files``, beside the data set's own.
IMAGES = ("MIMIC-CXR-JPG", "mimic-cxr-jpg", "mimic-cxr-jpg/2.1.0", "mimic-cxr-jpg/2.0.0", "mimic-cxr", "MIMIC-CXR")
SPLITS = ("train", "validation", "test", "all")
_NAMES = {"train": ("train",), "validation": ("val", "validation", "validate"), "test": ("test",)}
_PATIENT = re.compile(r"(?:^|/)(p\d{6,})(?:/|$)")
_SUFFIXES = (".jpg", ".png", ".jpeg", ".dcm")


def images(path: Path, split: str, tally: Tally) -> Iterator[MarkedImage]:
    """Read the images of a split with their sentences.

    Args:
        path: the CSV file.
        split: one of ``SPLITS``.
        tally: counts lines.

    Raises:
        UserError: if the file has no column of splits and one is wanted.
    """
    check(path, split)
    marks: dict[str, list[tuple[str, object]]] = {}
    facts: dict[str, tuple[str, str, Size | None]] = {}
    kinds: dict[str, frozenset[str]] = {}
    for location, row in csv_records(path, COLUMNS, tally):
        if split != "all" and row["split"].strip().lower() not in _NAMES[split]:
            continue
        name, sentence = row["path"].strip(), " ".join(row["label_text"].split())
        if not sentence or not name or ".." in PurePosixPath(name).parts:
            tally.skip("a line without a sentence or a path", location)
            continue
        facts.setdefault(name, (location, name, size_of_fields(row["image_width"], row["image_height"])))
        marks.setdefault(name, []).append((sentence, corners(numbers_of([row[key] for key in "xywh"]))))
        kinds[sentence] = kinds.get(sentence, frozenset()) | {row["category_name"].strip()}
    for location, name, size in facts.values():
        patient = _PATIENT.search(name)
        yield MarkedImage(
            location,
            tuple(dict.fromkeys(form for form in _forms(name))),
            gather(marks[name], kinds),
            size,
            patient[1] if patient else "",
            meta={"modality": "chest X-ray"},
        )


def check(path: Path, split: str) -> None:
    """Check the heading before anything is written.

    Raises:
        UserError: if a column lacks.
    """
    heading = csv_heading(path, COLUMNS)
    if split != "all" and "split" not in heading:
        raise UserError(f"{path} has no column 'split', as before version 1.1.0: take a newer one, or --split all")


def _forms(name: str) -> Iterator[str]:
    """Yield the names that an image may have: with another suffix, and without the folder ``files``."""
    stem = str(PurePosixPath(name).with_suffix(""))
    for form in (stem, stem.removeprefix("files/")):
        yield from (form + suffix for suffix in dict.fromkeys((PurePosixPath(name).suffix, *_SUFFIXES)))
