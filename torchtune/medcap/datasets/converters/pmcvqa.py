"""PMC-VQA: four-option questions about the figures of articles, for training."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.example import Example, SkipRecord, each
from medcap.datasets.conversion.fields import image_of, text_of
from medcap.datasets.conversion.reading import csv_heading, csv_records
from medcap.datasets.published.fields import option_texts
from medcap.datasets.published.pmcvqa import COLUMNS, IMAGE_FOLDERS, LETTERS, choices_of, missing_columns, right_answer

FILES = {"1": "train.csv", "2": "train_2.csv"}


@dataclass(frozen=True)
class PmcVqa(Converter):
    """``train.csv``, or ``train_2.csv`` of version 2, as the task ``pmcvqa`` reads the test files.

    Args:
        version: a key of ``FILES``.
        options: ``listed`` after the question, a line each, or ``hidden``; the answer is the right one's text.
    """

    name = "pmcvqa"
    converts = "PMC-VQA: questions about article figures, with or without their four options"
    download = (
        "download train.csv and images.zip (version 2: train_2.csv and images_2.zip) of RadGenome/PMC-VQA from the hub"
        " to PMC-VQA, and unpack the zip file there"
    )
    version: str = "1"
    options: str = "listed"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """See :meth:`Converter.add_arguments`."""
        parser.add_argument("--version", choices=FILES, default="1", help="of the data set (1)")
        parser.add_argument("--options", choices=("listed", "hidden"), default="listed", help="of a question (listed)")

    def output_name(self) -> str:
        """See :meth:`Converter.output_name`."""
        return "pmcvqa_train.jsonl" if self.version == "1" else f"pmcvqa{self.version}_train.jsonl"

    def examples(self, folders: Folders) -> Examples:
        """See :meth:`Converter.examples`."""
        path = Path(self.need(folders, f"PMC-VQA/{FILES[self.version]}"))
        self.need_images(folders, *(f"PMC-VQA/{name}" for name in IMAGE_FOLDERS))
        csv_heading(path, missing_columns(csv_heading(path, ())))
        folder = os.path.join(folders.data, "PMC-VQA")
        there = [name for name in IMAGE_FOLDERS if os.path.isdir(os.path.join(folder, name))] or ["images"]

        def convert(record: Mapping[str, str]) -> Iterator[Example]:
            choices = choices_of(record)
            answer = right_answer(record, choices)
            if not answer:
                raise SkipRecord("there is no right answer")
            question = text_of(record, "Question")
            if self.options == "listed":
                texts = option_texts(choices.values())
                question = "\n".join([question, *map("{}. {}".format, LETTERS, texts)])
            image = image_of(record, "Figure_path")
            yield Example([(question, answer)], tuple(f"{name}/{image}" for name in there), folder)

        return lambda tally: each(csv_records(path, COLUMNS, tally), convert, tally)
