"""ColonINST: colonoscopy images to classify, to locate things in, and to describe."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.datasets.conversion.base import Converter, Examples, Folders, add_split
from medcap.datasets.conversion.example import Example, Tally, each
from medcap.datasets.conversion.llava import llava_example
from medcap.datasets.conversion.text_boxes import with_boxes_inside
from medcap.datasets.published import coloninst

TASKS = ("cap", "3tasks", "cls", "reg", "rec")


@dataclass(frozen=True)
class ColonInst(Converter):
    """``ColonINST-<split>-<task>.json``: LLaVA's layout, but the image is the one that ``id`` names.

    Boxes are cut at the edges of their image; a record with a box of which nothing is left is left out.

    Args:
        split: ``train`` or ``validation``.
        tasks: tasks from ``TASKS``; by default captions and ``3tasks``, which holds the other three, or else each of
            them.
    """

    name = "coloninst"
    converts = "ColonINST: colonoscopy images to classify, locate things in, and describe"
    download = (
        "download the files of ai4colonoscopy/ColonINST-v1 from the hub to ColonINST/Json-file/train and .../val, and"
        " arrange the images under ColonINST/Positive-images as its guideline says (<data set>/Train/<class>/...)"
    )
    split: str = "train"
    tasks: tuple[str, ...] | None = None

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_split(parser)
        parser.add_argument("--tasks", nargs="+", choices=TASKS, help="which files (cap, 3tasks or else the rest)")

    def output_name(self) -> str:
        return f"coloninst_{self.split}.jsonl"

    def examples(self, folders: Folders) -> Examples:
        joined = ("3tasks",) if self._is_there(folders, "3tasks") else ("cls", "reg", "rec")
        tasks = self.tasks or ("cap", *joined)
        paths = [Path(self.need(folders, *self._names(task))) for task in tasks]
        images = self.need_images(folders, f"{coloninst.FOLDER}/{coloninst.IMAGES}")
        # On first use: a list of the converters needs no decoders of images.
        from medcap.data.images.reader import ImageReader
        from medcap.data.images.reference import ImageRef

        reader = ImageReader([images])

        def convert(record: Mapping[str, Any]) -> list[Example]:
            example = llava_example(record, images, "id")
            return [with_boxes_inside(example, "coloninst", lambda path: reader.shown_size(ImageRef(path)))]

        def read(tally: Tally) -> Iterator[tuple[str, Example]]:
            for path in paths:
                records = coloninst.records(path, tally)
                yield from each(records, convert, tally)

        return read

    def _names(self, task: str) -> list[str]:
        return [f"{coloninst.FOLDER}/{name}" for name in coloninst.file_names(self.split, task)]

    def _is_there(self, folders: Folders, task: str) -> bool:
        return any(os.path.isfile(os.path.join(folders.data, name)) for name in self._names(task))
