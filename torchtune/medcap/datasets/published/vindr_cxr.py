"""VinDr-CXR's files: findings of chest X-rays in boxes, each training image read by three radiologists.

``annotations_train.csv`` (PhysioNet) or ``train.csv`` (Kaggle) has a line for each box: ``image_id``, ``rad_id``,
``class_name``, ``x_min``, ``y_min``, ``x_max``, ``y_max`` in pixels; ``No finding`` has no box. The test file,
``annotations_test.csv``, is the consensus of five and has no ``rad_id``. Images are DICOM, ``train/<image_id>.dicom``.
RadVLM's public code reads them so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from medcap.data.boxes.box import four_numbers
from medcap.datasets.published.finding import Layout
from medcap.datasets.published.marked import Edges, MarkedImage, MarkedObject, numbers_of, plain_phrase
from medcap.datasets.published.reading import Tally, csv_records

COLUMNS = ("image_id", "class_name", "x_min", "y_min", "x_max", "y_max")
SPLITS = ("train", "test")
SAME_LESION = 0.4  # IoU above which boxes of two readers are one; the threshold of VinBigData's competition
_FOLDERS = ("vindr-cxr/1.0.0", "vindr-cxr", "VinDr-CXR", "vinbigdata-chest-xray-abnormalities-detection")
_NOTHING = ("No finding", "Other lesion", "Other disease", "Other diseases")
_SUFFIXES = (".dicom", ".dcm", ".png", ".jpg")


def layout(split: str) -> Layout:
    """Return the names of a split's files, ``train`` or ``test``."""
    files = (f"annotations/annotations_{split}.csv", f"annotations_{split}.csv", f"{split}.csv")
    return Layout(_FOLDERS, {"csv": files}, (split, f"{split}_jpg", f"{split}_png"))


def images(path: Path, tally: Tally) -> Iterator[MarkedImage]:
    """Read the images with their findings; boxes of several readers around one lesion become their mean.

    Args:
        path: the CSV file.
        tally: counts lines.
    """
    marks: dict[str, dict[str, list[tuple[str, object]]]] = {}
    first: dict[str, str] = {}
    others: dict[str, set[str]] = {}
    for location, row in csv_records(path, COLUMNS, tally):
        name, label = row["image_id"].strip(), row["class_name"].strip()
        first.setdefault(name, location)
        objects = marks.setdefault(name, {})
        if label in _NOTHING:
            others.setdefault(name, set()).add(label)
            continue
        reader = row.get("rad_id") or row.get("rad_ID") or ""
        box = numbers_of([row[key] for key in ("x_min", "y_min", "x_max", "y_max")])
        objects.setdefault(plain_phrase(label), []).append((reader, box))
    for name, objects in marks.items():
        yield MarkedImage(
            first[name],
            tuple(name + suffix for suffix in _SUFFIXES),
            tuple(MarkedObject(phrase, tuple(joined(boxes))) for phrase, boxes in objects.items()),
            others=frozenset(others.get(name, ())),
            meta={"modality": "chest X-ray"},
        )


def joined(boxes: Sequence[tuple[str, object]]) -> list[object]:
    """Join the boxes that several readers drew around one lesion.

    Each box goes to the first lesion whose mean so far it overlaps with an IoU above ``SAME_LESION`` and that none of
    the reader's own boxes is in.

    Args:
        boxes: reader and box, of one class.

    Returns:
        The mean of each lesion's boxes; what is no box stays as it is.
    """
    lesions: list[list[tuple[str, Edges]]] = []
    bad = []
    for reader, box in boxes:
        edges = four_numbers(box)
        if edges is None:
            bad.append(box)
            continue
        for lesion in lesions:
            apart = not reader or all(reader != other for other, _ in lesion)
            if reader and apart and _iou(_mean([its for _, its in lesion]), edges) > SAME_LESION:
                lesion.append((reader, edges))
                break
        else:
            lesions.append([(reader, edges)])
    return [*(_mean([its for _, its in lesion]) for lesion in lesions), *bad]


def _mean(boxes: Sequence[Edges]) -> Edges:
    left, top, right, bottom = (sum(edges) / len(boxes) for edges in zip(*boxes, strict=True))
    return left, top, right, bottom


def _iou(one: Edges, other: Edges) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return width * height / (areas - width * height)
