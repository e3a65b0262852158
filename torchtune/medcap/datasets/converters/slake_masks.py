"""SLAKE's masks of organs and lesions."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from medcap.datasets.conversion.base import Folders
from medcap.datasets.conversion.masks import MaskConverter, Source
from medcap.datasets.conversion.questions import find_source, image_folders
from medcap.datasets.published import slake, slake_masks
from medcap.datasets.published.finding import Layout


@dataclass(frozen=True, kw_only=True)
class SlakeMasks(MaskConverter):
    """The ``mask.png`` beside each image; what ``--split test`` writes is for ``test_pixel_grounding``.

    Args:
        split: ``train``, ``validation`` or ``test``: the images that its questions are about.
    """

    name = "slake-masks"
    converts = "SLAKE's masks: organs and lesions of radiology images"
    download = (
        "download BoKelvin/SLAKE from the hub to Slake1.0: train.json, validate.json, test.json, mask.txt, and imgs.zip"
        " unpacked there"
    )
    split: str = "train"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--split", choices=("train", "validation", "test"), default="train", help="part of the data set (train)"
        )
        super().add_arguments(parser)

    def output_name(self) -> str:
        return f"slake-masks_{self.split}.jsonl"

    def source(self, folders: Folders) -> tuple[Source, list[str]]:
        whole = slake.layout(self.split)
        layout = Layout(whole.folders, {"official": whole.kinds["official"]}, whole.images)
        found = find_source(self, folders, layout)
        locations = image_folders(self, folders, layout)
        names = [f"{folder}/{slake_masks.CLASSES}" for folder in layout.folders]
        classes = slake_masks.read_classes(Path(self.need(folders, *names)))
        places = [Path(location) for location in locations]
        return lambda tally: slake_masks.images(found, places, classes, tally), locations
