"""PadChest-GR: chest X-ray reports sentence by sentence, with boxes."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from medcap.datasets.conversion.base import Folders
from medcap.datasets.conversion.boxes import BoxConverter, Source
from medcap.datasets.conversion.questions import find_source, image_folders
from medcap.datasets.published import padchest_gr
from medcap.datasets.published.box_questions import WHERE_FINDING


@dataclass(frozen=True, kw_only=True)
class PadChestGr(BoxConverter):
    """``grounded_reports_*.json`` and ``master_table.csv``; the rows of ``test`` are for the task ``grounding``.

    Args:
        split: one of ``SPLITS``.
    """

    name = "padchest-gr"
    converts = "PadChest-GR: sentences of chest X-ray reports, and where the image shows what they say"
    download = (
        "put grounded_reports_20240819.json, master_table.csv (unzipped) and the images (Padchest_GR_files, unzipped)"
        " of PadChest-GR (BIMCV, on request) into PadChest-GR"
    )
    where = WHERE_FINDING
    split: str = "train"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--split", choices=padchest_gr.SPLITS, default="train", help="part of the data set (train)")
        super().add_arguments(parser)

    def output_name(self) -> str:
        return f"padchest-gr_{self.split}.jsonl"

    def source(self, folders: Folders) -> tuple[Source, list[str]]:
        found = find_source(self, folders, padchest_gr.LAYOUT)
        self.need(folders, *(f"{folder}/{padchest_gr.TABLE}" for folder in padchest_gr.LAYOUT.folders))
        locations = image_folders(self, folders, padchest_gr.LAYOUT)
        return lambda tally: padchest_gr.images(found.files[0], self.split, tally), locations
