"""SLAKE: training and validation questions in English or Chinese."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.datasets.conversion.base import Converter, Examples, Folders, add_split
from medcap.datasets.conversion.example import Example, SkipRecord, each
from medcap.datasets.conversion.fields import image_of, text_of
from medcap.datasets.conversion.hub import hub_examples, hub_files
from medcap.datasets.conversion.reading import json_records

_FOLDERS = ("Slake1.0", "Slake", "SLAKE", "slake", "Slake/Slake1.0")
_FILES = {"train": "train.json", "validation": "validate.json"}


@dataclass(frozen=True)
class Slake(Converter):
    """``train.json`` or ``validate.json`` with ``img_name``, ``question``, ``answer`` and ``q_lang``, or the hub's
    English copy.

    Args:
        split: a key of ``_FILES``.
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
        """See :meth:`Converter.add_arguments`."""
        add_split(parser)
        parser.add_argument("--language", choices=("en", "zh", "all"), default="en", help="of the questions (en)")

    def output_name(self) -> str:
        """See :meth:`Converter.output_name`."""
        language = "" if self.language == "en" else f"-{self.language}"
        return f"slake{language}_{self.split}.jsonl"

    def examples(self, folders: Folders) -> Examples:
        """See :meth:`Converter.examples`."""
        if files := hub_files(folders, ("SLAKE-vqa-english", *_FOLDERS), self.split):
            return hub_examples(files, folders, self.name, self._check_language)
        path = Path(self.need(folders, *(f"{name}/{_FILES[self.split]}" for name in _FOLDERS)))
        images = self.need_images(folders, *(f"{name}/imgs" for name in _FOLDERS))

        def convert(record: Mapping[str, Any]) -> Iterator[Example]:
            self._check_language(record)
            turns = [(text_of(record, "question"), text_of(record, "answer"))]
            yield Example(turns, (image_of(record, "img_name"),), images)

        return lambda tally: each(json_records(path, tally), convert, tally)

    def _check_language(self, record: Mapping[str, Any]) -> None:
        # The hub's English copy does not say it.
        if self.language not in ("all", record.get("q_lang") or "en"):
            raise SkipRecord(f"a question in another language than {self.language}")
