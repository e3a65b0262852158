"""VQA-Med: the ImageCLEF training and validation questions of 2019, 2020 and 2021."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medcap.datasets.conversion.base import Converter, Examples, Folders, add_split
from medcap.datasets.conversion.example import Example, SkipRecord, each
from medcap.datasets.conversion.fields import safe_name
from medcap.datasets.conversion.reading import bar_records
from medcap.errors import UserError

_SUFFIXES = (".jpg", ".png", ".jpeg")
_2020 = "VQA-Med-2020-Task1-VQAnswering-TrainVal-Sets/VQAMed2020-VQAnswering"
# (year, split) -> folder of the archive, file of questions, folder of images.
PARTS = {
    ("2019", "train"): ("ImageClef-2019-VQA-Med-Training", "All_QA_Pairs_train.txt", "Train_images"),
    ("2019", "validation"): ("ImageClef-2019-VQA-Med-Validation", "All_QA_Pairs_val.txt", "Val_images"),
    ("2020", "train"): (
        f"{_2020}-TrainingSet",
        "VQAnswering_2020_Train_QA_pairs.txt",
        "VQAnswering_2020_Train_images",
    ),
    ("2020", "validation"): (
        f"{_2020}-ValidationSet",
        "VQAnswering_2020_Val_QA_Pairs.txt",
        "VQAnswering_2020_Val_images",
    ),
    ("2021", "validation"): (
        "VQA-Med-2021-Tasks-1-2-NewValidationSets",
        "VQA-Med-2021-VQAnswering-Task1-New-ValidationSet.txt",
        "ImageCLEF-2021-VQA-Med-New-Validation-Images",
    ),
}


@dataclass(frozen=True)
class VqaMed(Converter):
    """Lines ``image|question|answer``; the image lacks its suffix. 2021 has no training set of its own.

    Args:
        year: ``2019``, ``2020`` or ``2021``.
        split: ``train`` or ``validation``.
    """

    name = "vqamed"
    converts = "VQA-Med: radiology questions of ImageCLEF 2019, 2020 or 2021"
    download = (
        "unpack the training and validation archives of abachaa/VQA-Med-2019, -2020 or -2021 (GitHub and AIcrowd) to"
        " VQA-Med-2019, VQA-Med-2020 or VQA-Med-2021"
    )
    year: str = "2019"
    split: str = "train"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """See :meth:`Converter.add_arguments`."""
        add_split(parser)
        parser.add_argument("--year", choices=("2019", "2020", "2021"), default="2019", help="of the challenge (2019)")

    def output_name(self) -> str:
        """See :meth:`Converter.output_name`."""
        return f"vqamed{self.year}_{self.split}.jsonl"

    def examples(self, folders: Folders) -> Examples:
        """See :meth:`Converter.examples`."""
        if (self.year, self.split) not in PARTS:
            raise UserError(
                f"vqamed: --year {self.year} has no {self.split} set: use --year 2020 or --split validation"
            )
        archive, file, image_folder = PARTS[self.year, self.split]
        top = f"VQA-Med-{self.year}"
        # An archive is unpacked with or without its own folder.
        places = [f"{top}/{archive}", f"{top}/{archive.rpartition('/')[2]}", top, archive]
        path = Path(self.need(folders, *(f"{place}/{file}" for place in places)))
        images = self.need_images(folders, *(f"{place}/{image_folder}" for place in places))

        def convert(fields: Sequence[str]) -> Iterator[Example]:
            image, question, answer = fields
            if not image or not question or not answer:
                raise SkipRecord("a field is empty")
            names = tuple(safe_name(image) + suffix for suffix in _SUFFIXES)
            yield Example([(question, answer)], names, images)

        return lambda tally: each(bar_records(path, 3, tally), convert, tally)
