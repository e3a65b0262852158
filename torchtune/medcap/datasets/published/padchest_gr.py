"""PadChest-GR's files: chest X-ray reports sentence by sentence, each with the boxes of what it says.

``grounded_reports_20240819.json`` is an array of studies with ``StudyID``, ``ImageID`` (the image's name) and
``findings``: ``sentence_en``, ``abnormal``, ``boxes`` (``[x1, y1, x2, y2]`` in shares of the image; sentences about
what is normal often lack them), ``extra_boxes`` (of a second reader, not used here), ``labels``, ``locations``.
``master_table.csv`` has ``ImageID``, ``PatientID`` and ``split`` (train, validation, test), in several lines a study.
RadVLM's and ClueGround's public code read them so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import Layout
from medcap.datasets.published.marked import SHARES, MarkedImage, MarkedObject
from medcap.datasets.published.reading import Tally, csv_records, json_records
from medcap.errors import UserError

SPLITS = ("train", "validation", "test")
TABLE = "master_table.csv"
LAYOUT = Layout(
    ("PadChest-GR", "PadChest_GR", "Padchest-GR", "padchest-gr"),
    {"json": ("grounded_reports_*.json",)},
    ("Padchest_GR_files/PadChest_GR", "Padchest_GR_files", "PadChest_GR", "images_grounding", "images", "."),
)


def images(path: Path, split: str, tally: Tally) -> Iterator[MarkedImage]:
    """Read the images of a split with the sentences that have boxes.

    Args:
        path: the JSON file; ``master_table.csv`` is beside it.
        split: one of ``SPLITS``.
        tally: counts studies.
    """
    patients = _patients(path.with_name(TABLE), split)
    for location, study in json_records(path, tally):
        name = field_text(study.get("ImageID"))
        if name not in patients:
            continue
        findings = study.get("findings")
        if not isinstance(findings, list) or not all(isinstance(finding, Mapping) for finding in findings):
            tally.skip("'findings' is not a list of objects", location)
            continue
        marks: dict[str, list[Any]] = {}
        kinds: dict[str, set[str]] = {}
        others: set[str] = set()
        for finding in findings:
            sentence, boxes = " ".join(field_text(finding.get("sentence_en")).split()), finding.get("boxes") or []
            others.update(_labels(finding))
            if not isinstance(boxes, list):
                tally.skip("'boxes' of a finding is not a list", location)
            elif boxes and sentence:
                # One sentence may be there twice, each time with boxes of its own.
                known = marks.setdefault(sentence, [])
                known += [box for box in boxes if box not in known]
                kinds.setdefault(sentence, set()).update(_labels(finding))
        yield MarkedImage(
            location,
            (name,),
            tuple(MarkedObject(it, tuple(boxes), frozenset(kinds[it])) for it, boxes in marks.items()),
            SHARES,
            patients[name],
            frozenset(others),
            {"modality": "chest X-ray"},
        )


def _labels(finding: Mapping[str, Any]) -> list[str]:
    labels = finding.get("labels") or []
    return [field_text(label).lower() for label in labels if field_text(label)] if isinstance(labels, list) else []


def _patients(path: Path, split: str) -> dict[str, str]:
    """Return the patient of each image of a split."""
    if not path.is_file():
        raise UserError(f"{path} does not exist: it says which images are of the {split} part (unzip {TABLE}.zip)")
    rows = csv_records(path, ("ImageID", "PatientID", "split"), Tally())
    return {row["ImageID"]: row["PatientID"] for _, row in rows if row["split"].strip() == split}
