"""MS-CXR: sentences of chest X-ray reports and their boxes."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

from medcap.datasets.conversion.base import Folders
from medcap.datasets.conversion.boxes import BoxConverter, Source
from medcap.datasets.conversion.questions import find_source
from medcap.datasets.published import mscxr
from medcap.datasets.published.box_questions import WHERE_FINDING


@dataclass(frozen=True, kw_only=True)
class MsCxr(BoxConverter):
    """``MS_CXR_Local_Alignment_v1.1.0.csv``; the rows of ``test`` are for the task ``grounding``.

    The boxes of one sentence on one image are one answer. Boxes fit MIMIC-CXR-JPG's images and copies of another size.
    What is not marked may still be there, so nothing is known to be absent.

    Args:
        split: one of ``SPLITS``.
    """

    name = "ms-cxr"
    converts = "MS-CXR: sentences of chest X-ray reports, and where the image shows what they say"
    download = (
        "put MS_CXR_Local_Alignment_v1.1.0.csv (PhysioNet, ms-cxr) into MS-CXR, and MIMIC-CXR-JPG's folder files there"
        " or into MIMIC-CXR-JPG"
    )
    where = WHERE_FINDING
    knows_absent = False
    split: str = "train"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--split", choices=mscxr.SPLITS, default="train", help="part of the data set (train)")
        super().add_arguments(parser)

    def output_name(self) -> str:
        return f"ms-cxr_{self.split}.jsonl"

    def source(self, folders: Folders) -> tuple[Source, list[str]]:
        found = find_source(self, folders, mscxr.LAYOUT)
        path = found.files[0]
        mscxr.check(path, self.split)
        locations = [str(found.folder), *(os.path.join(folders.data, name) for name in mscxr.IMAGES)]
        there = [location for location in locations if os.path.isdir(location)]
        return lambda tally: mscxr.images(path, self.split, tally), there
