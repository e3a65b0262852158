"""SLAKE's boxes of organs and lesions."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from medcap.datasets.conversion.base import Folders, add_split
from medcap.datasets.conversion.boxes import BoxConverter, Source
from medcap.datasets.conversion.questions import find_source, image_folders
from medcap.datasets.published import slake, slake_boxes
from medcap.datasets.published.finding import Layout


@dataclass(frozen=True, kw_only=True)
class SlakeBoxes(BoxConverter):
    """The ``detection.json`` beside each image, as the task ``slake_boxes`` reads those of the test images.

    Args:
        split: ``train`` or ``validation``: the images that its questions are about.
    """

    name = "slake-boxes"
    converts = "SLAKE's boxes: organs and lesions of radiology images"
    download = (
        "download BoKelvin/SLAKE from the hub to Slake1.0: train.json, validate.json, and imgs.zip unpacked there"
    )
    split: str = "train"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_split(parser)
        super().add_arguments(parser)

    def output_name(self) -> str:
        return f"slake-boxes_{self.split}.jsonl"

    def source(self, folders: Folders) -> tuple[Source, list[str]]:
        whole = slake.layout(self.split)
        layout = Layout(whole.folders, {"official": whole.kinds["official"]}, whole.images)
        found = find_source(self, folders, layout)
        locations = image_folders(self, folders, layout)
        return lambda tally: slake_boxes.images(found, [Path(location) for location in locations], tally), locations
