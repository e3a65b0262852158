"""VQA-Med: the ImageCLEF training and validation questions of 2019, 2020 and 2021."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from medcap.datasets.conversion.base import Converter, Examples, Folders, add_split
from medcap.datasets.conversion.questions import question_examples
from medcap.datasets.published import vqamed
from medcap.errors import UserError


@dataclass(frozen=True)
class VqaMed(Converter):
    """Lines ``image|question|answer``; the image lacks its suffix. 2021 has no separate training set.

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
        add_split(parser)
        parser.add_argument("--year", choices=("2019", "2020", "2021"), default="2019", help="of the challenge (2019)")

    def output_name(self) -> str:
        return f"vqamed{self.year}_{self.split}.jsonl"

    def examples(self, folders: Folders) -> Examples:
        if (self.year, self.split) not in vqamed.PARTS:
            raise UserError(
                f"vqamed: --year {self.year} has no {self.split} set: use --year 2020 or --split validation"
            )
        return question_examples(self, folders, vqamed.layout(self.year, self.split), vqamed.questions)
