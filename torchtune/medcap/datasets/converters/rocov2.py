"""ROCOv2: captions of radiology figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.example import Example, each
from medcap.datasets.conversion.fields import image_of, text_of
from medcap.datasets.conversion.instructions import DESCRIBE
from medcap.datasets.published.captions.rocov2 import COLUMNS, SUFFIX, TABLE_FOLDERS
from medcap.datasets.published.reading import csv_heading, csv_records


class Rocov2(Converter):
    """``train_captions.csv`` with the columns ``ID`` and ``Caption``, and the images ``train/<ID>.jpg``."""

    name = "rocov2"
    converts = "ROCOv2: captions of radiology figures"
    download = (
        "download train_captions.csv and train_images.zip of ROCOv2 (Zenodo record 8333645) to ROCOv2, or to"
        " PMC-VQA-text, where medcap has it, and unpack the zip file to the folder train in it"
    )
    output = "rocov2_train.jsonl"
    captions = True

    def examples(self, folders: Folders) -> Examples:
        file = Path(self.need(folders, *(f"{folder}/train_captions.csv" for folder in TABLE_FOLDERS)))
        images = self.need_images(folders, *(f"{folder}/train" for folder in TABLE_FOLDERS))
        csv_heading(file, COLUMNS)

        def convert(record: Mapping[str, str]) -> Iterator[Example]:
            yield Example([("", text_of(record, "Caption"))], (image_of(record, "ID") + SUFFIX,), images, DESCRIBE)

        return lambda tally: each(csv_records(file, COLUMNS, tally), convert, tally)
