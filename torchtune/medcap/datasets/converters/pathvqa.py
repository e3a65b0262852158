"""PathVQA: training and validation questions about pathology figures."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.data.conversations import CONVERSATION_KEYS
from medcap.datasets.conversion.base import Converter, Examples, Folders, add_split
from medcap.datasets.conversion.example import Example, each
from medcap.datasets.conversion.fields import image_of, text_of
from medcap.datasets.conversion.hub import hub_examples, hub_files
from medcap.datasets.conversion.llava import llava_example
from medcap.datasets.conversion.reading import json_records

_FOLDERS = ("path-vqa", "PathVQA", "pathvqa", "path_vqa", "pvqa")
_FILES = {"train": ("train.json", "train.jsonl", "train_qa.json"), "validation": ("val.json", "validation.json")}


@dataclass(frozen=True)
class PathVqa(Converter):
    """The hub's copy, or a JSON file of rows with ``image`` (with or without a suffix), ``question`` and ``answer``
    or of LLaVA-Med's rows. The official files are pickles, which run code when they are opened, and are not read.

    Args:
        split: a key of ``_FILES``.
    """

    name = "pathvqa"
    converts = "PathVQA: questions about pathology figures"
    download = (
        "download data/*.parquet of flaviagiammarino/path-vqa from the hub to path-vqa, or write path-vqa/train.json of"
        " rows with image, question and answer (the official pickles are not opened, as that can run code)"
    )
    split: str = "train"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        """See :meth:`Converter.add_arguments`."""
        add_split(parser)

    def output_name(self) -> str:
        """See :meth:`Converter.output_name`."""
        return f"pathvqa_{self.split}.jsonl"

    def examples(self, folders: Folders) -> Examples:
        """See :meth:`Converter.examples`."""
        if files := hub_files(folders, _FOLDERS, self.split):
            return hub_examples(files, folders, self.name)
        path = Path(self.need(folders, *(f"{name}/{file}" for name in _FOLDERS for file in _FILES[self.split])))
        place = path.parent
        images = next((name for name in (f"images/{self.split}", "images") if (place / name).is_dir()), "")
        folder = os.path.join(place, images)

        def convert(record: Mapping[str, Any]) -> Iterator[Example]:
            if any(key in record for key in CONVERSATION_KEYS):
                yield llava_example(record, folder)
                return
            image = image_of(record, "image")
            turns = [(text_of(record, "question"), text_of(record, "answer"))]
            yield Example(turns, (image, f"{image}.jpg", f"{image}.png"), folder)

        return lambda tally: each(json_records(path, tally), convert, tally)
