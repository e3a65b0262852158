"""VinDr-CXR: findings of chest X-rays in boxes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from medcap.datasets.conversion.base import Folders
from medcap.datasets.conversion.boxes import BoxConverter, Source
from medcap.datasets.conversion.questions import find_source, image_folders
from medcap.datasets.published import vindr_cxr


@dataclass(frozen=True, kw_only=True)
class VinDrCxr(BoxConverter):
    """``annotations_train.csv``, or ``train.csv`` of the competition; the rows of ``test`` are for the task
    ``grounding``. Boxes of several readers around one lesion become their mean; ``Other lesion`` is not asked for.

    Args:
        split: one of ``SPLITS``.
    """

    name = "vindr-cxr"
    converts = "VinDr-CXR: findings of chest X-rays in boxes"
    download = (
        "put vindr-cxr/1.0.0 of PhysioNet (annotations, train, test) into vindr-cxr, or train.csv and train of Kaggle's"
        " vinbigdata-chest-xray-abnormalities-detection; its images are DICOM: pip install 'medcap[dicom]'"
    )
    split: str = "train"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--split", choices=vindr_cxr.SPLITS, default="train", help="part of the data set (train)")
        super().add_arguments(parser)

    def output_name(self) -> str:
        return f"vindr-cxr_{self.split}.jsonl"

    def source(self, folders: Folders) -> tuple[Source, list[str]]:
        layout = vindr_cxr.layout(self.split)
        found = find_source(self, folders, layout)
        return lambda tally: vindr_cxr.images(found.files[0], tally), image_folders(self, folders, layout)
