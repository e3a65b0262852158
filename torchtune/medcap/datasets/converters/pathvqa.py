"""PathVQA: training and validation questions about pathology figures."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace

from medcap.datasets.conversion.base import Converter, Examples, Folders, add_split
from medcap.datasets.conversion.example import Example
from medcap.datasets.conversion.llava import llava_example
from medcap.datasets.conversion.questions import examples_of, find_source, hub_examples, image_names, locate, turn_of
from medcap.datasets.published import pathvqa
from medcap.datasets.published.finding import HUB
from medcap.datasets.published.question import PublishedQuestion


@dataclass(frozen=True)
class PathVqa(Converter):
    """The hub's copy, or a JSON file of rows with ``image`` (with or without a suffix), ``question`` and ``answer``
    or of LLaVA-Med's rows. The official files are pickles, which run code when they are opened, and are not read.

    Args:
        split: ``train`` or ``validation``.
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
        add_split(parser)

    def output_name(self) -> str:
        return f"pathvqa_{self.split}.jsonl"

    def examples(self, folders: Folders) -> Examples:
        layout = pathvqa.layout(self.split)
        found = find_source(self, folders, layout)
        if found.kind == HUB:
            return hub_examples(self, folders, found, pathvqa.questions)
        deepest_first = sorted(layout.images, key=lambda name: "/" not in name)
        locations = [os.path.join(found.folder, name) for name in deepest_first if (found.folder / name).is_dir()]
        locations.append(os.path.join(found.folder, ""))

        def convert(question: PublishedQuestion) -> Iterator[Example]:
            if question.conversation is None:
                yield locate(Example([turn_of(question)], image_names(question)), locations)
            elif question.turn == 0:  # the others belong to this one's example
                example = llava_example(question.conversation, "")
                yield locate(replace(example, images=example.images and image_names(question)), locations)

        return examples_of(pathvqa.questions, found, convert)
