"""PubMedVision: descriptions of the figures of articles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.disk_table import DiskTable
from medcap.datasets.conversion.example import Example, SkipRecord, Tally
from medcap.datasets.conversion.fields import safe_name, text_of
from medcap.datasets.conversion.instructions import DESCRIBE
from medcap.datasets.published.reading import json_records, progress


class PubMedVision(Converter):
    """``PubMedVision_Alignment_VQA.json``: each record has a list of images and turns, of which the last describes
    them. As in medcap 2024, each image is a row of its own, sorted by name; of two records the later one counts."""

    name = "pubmedvision"
    converts = "PubMedVision (alignment): a description for each image"
    download = (
        "download PubMedVision_Alignment_VQA.json and images_*.zip of FreedomIntelligence/PubMedVision from the hub to"
        " PMC-VQA-text, where medcap has it, and unpack each zip file by unzip -j images_0.zip -d"
        " PMC-VQA-text/images_vision"
    )
    output = "pubmedvision_train.jsonl"
    captions = True

    def examples(self, folders: Folders) -> Examples:
        file = Path(self.need(folders, "PMC-VQA-text/PubMedVision_Alignment_VQA.json"))
        images = self.need_images(folders, "PMC-VQA-text/images_vision")

        def read(tally: Tally) -> Iterator[tuple[str, Example]]:
            with DiskTable(folders.out) as captions:
                for location, record in json_records(file, tally):
                    try:
                        caption = _caption(record)
                        for name in _names(record):
                            captions.add(name, caption)
                    except SkipRecord as reason:
                        tally.skip(str(reason), location)
                for name in progress(captions.sorted_keys(), "images", "image"):
                    yield f"{file}, {name}", Example([("", captions.texts(name)[-1])], (name,), images, DESCRIBE)

        return read


def _names(record: Mapping[str, Any]) -> list[str]:
    images = record.get("image")
    images = [images] if isinstance(images, str) else images
    if not isinstance(images, list) or not images or not all(isinstance(name, str) and name for name in images):
        raise SkipRecord("'image' is not a list of names")
    return [safe_name(name.rpartition("/")[2]) for name in images]


def _caption(record: Mapping[str, Any]) -> str:
    turns = record.get("conversations")
    if not isinstance(turns, list) or not turns or not isinstance(turns[-1], Mapping):
        raise SkipRecord("there are no 'conversations'")
    return text_of(turns[-1], "value")
