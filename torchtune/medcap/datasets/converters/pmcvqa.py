"""PMC-VQA: four-option questions about the figures of articles, for training."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.example import Example, SkipRecord
from medcap.datasets.conversion.fields import words
from medcap.datasets.conversion.questions import examples_of, find_source, image_folders, image_names
from medcap.datasets.published import pmcvqa
from medcap.datasets.published.question import PublishedQuestion

VERSIONS = {"1": "train", "2": "train_2"}


@dataclass(frozen=True)
class PmcVqa(Converter):
    """``train.csv``, or ``train_2.csv`` of version 2, as the task ``pmcvqa`` reads the test files.

    Args:
        version: a key of ``VERSIONS``.
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
        parser.add_argument("--version", choices=VERSIONS, default="1", help="of the data set (1)")
        parser.add_argument("--options", choices=("listed", "hidden"), default="listed", help="of a question (listed)")

    def output_name(self) -> str:
        return "pmcvqa_train.jsonl" if self.version == "1" else f"pmcvqa{self.version}_train.jsonl"

    def examples(self, folders: Folders) -> Examples:
        layout = pmcvqa.layout(VERSIONS[self.version])
        found = find_source(self, folders, layout)
        image_folders(self, folders, layout)
        folder = os.path.join(folders.data, os.path.relpath(found.folder, folders.data))
        there = [name for name in layout.images if os.path.isdir(os.path.join(folder, name))] or ["images"]
        pmcvqa.check_columns(found)

        def convert(question: PublishedQuestion) -> Iterator[Example]:
            (answer,) = question.answers
            if not answer:
                raise SkipRecord("there is no right answer")
            asked = words(question.question, "question")
            if self.options == "listed":
                asked = "\n".join([asked, *map("{}. {}".format, pmcvqa.LETTERS, question.options)])
            (image,) = image_names(question)
            yield Example([(asked, answer)], tuple(f"{name}/{image}" for name in there), folder)

        return examples_of(pmcvqa.questions, found, convert)
