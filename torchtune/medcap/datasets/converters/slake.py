"""SLAKE: training and validation questions in English or Chinese."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from medcap.datasets.conversion.base import Converter, Examples, Folders, add_split
from medcap.datasets.conversion.example import SkipRecord
from medcap.datasets.conversion.questions import question_examples
from medcap.datasets.published import slake
from medcap.datasets.published.question import PublishedQuestion


@dataclass(frozen=True)
class Slake(Converter):
    """SLAKE's own files or the hub's English copy, as the task ``slake`` reads the test files.

    Args:
        split: ``train`` or ``validation``.
        language: ``en``, ``zh`` or ``all``.
    """

    name = "slake"
    converts = "SLAKE: questions about radiology images, in English or Chinese"
    download = (
        "download BoKelvin/SLAKE from the hub to Slake1.0: train.json, validate.json, and imgs.zip unpacked there; or"
        " data/*.parquet of mdwiratathya/SLAKE-vqa-english to SLAKE-vqa-english"
    )
    split: str = "train"
    language: str = "en"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_split(parser)
        parser.add_argument("--language", choices=("en", "zh", "all"), default="en", help="of the questions (en)")

    def output_name(self) -> str:
        language = "" if self.language == "en" else f"-{self.language}"
        return f"slake{language}_{self.split}.jsonl"

    def examples(self, folders: Folders) -> Examples:
        return question_examples(self, folders, slake.layout(self.split), slake.questions, self._check_language)

    def _check_language(self, question: PublishedQuestion) -> None:
        if self.language not in ("all", question.language or "en"):
            raise SkipRecord(f"a question in another language than {self.language}")
