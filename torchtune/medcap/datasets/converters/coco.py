"""Any file in COCO's format."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.datasets.conversion.base import Folders, existing_file
from medcap.datasets.conversion.boxes import BoxConverter, Source
from medcap.datasets.published import coco
from medcap.errors import UserError

PATIENT = "patient"  # the usual name of the field


@dataclass(frozen=True, kw_only=True)
class CocoBoxes(BoxConverter):
    """A file of your own with ``images``, ``annotations`` and ``categories``.

    Args:
        file: its path.
        phrase_key: field of an annotation with the words to ask for; None for the name of its category.
        patient_key: field of an image that says whose it is; None for "patient", where an image has it.
    """

    name = "coco"
    converts = "a file in COCO's format: boxes and the categories of what they show"
    download = "name the file by --file, and the folder of its images by --data-dir unless it is the file's own"
    default_data = None
    file: str
    phrase_key: str | None = None
    patient_key: str | None = None

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--file", required=True, help="the JSON file")
        parser.add_argument("--phrase-key", help="field of an annotation with the words to ask for (its category)")
        parser.add_argument("--patient-key", help="field of an image that names its patient (patient)")
        super().add_arguments(parser)

    def output_name(self) -> str:
        return f"{Path(self.file).stem}.jsonl"

    def source(self, folders: Folders) -> tuple[Source, list[str]]:
        path = existing_file(self.name, self.file)
        parts = coco.read(path)
        folder = folders.data or os.path.dirname(self.file) or "."
        check_patient_key(self.patient_key, path, parts)
        return lambda tally: coco.images(path, parts, tally, self.phrase_key, self.patient_key or PATIENT), [folder]


def check_patient_key(key: str | None, path: Path, parts: Mapping[str, list[Any]]) -> None:
    """See that the images of a file in COCO's format have the key that the user names.

    Raises:
        UserError: if not one image has it: without it, intervals and divisions would go by images.
    """
    if key is not None and not any(isinstance(entry, Mapping) and key in entry for entry in parts["images"]):
        raise UserError(f"--patient-key {key}: no image of {path} has this field")
