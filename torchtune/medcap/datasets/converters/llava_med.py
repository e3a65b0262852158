"""LLaVA-Med: its alignment and instruction files."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.example import each
from medcap.datasets.conversion.llava import llava_example
from medcap.datasets.published.reading import json_records

PARTS = {
    "alignment": "alignment/llava_med_alignment_500k.json",
    "instruct-10k": "instruct/llava_med_instruct_10k.json",
    "instruct-60k": "instruct/llava_med_instruct_60k.json",
    "instruct-60k-im": "instruct/llava_med_instruct_60k_inline_mention.json",
}


@dataclass(frozen=True)
class LlavaMed(Converter):
    """Records with ``image`` and ``conversations``, or ``conversatons`` as the released alignment file has it.

    Args:
        part: a key of ``PARTS``.
    """

    name = "llava-med"
    converts = "LLaVA-Med: alignment (500k) or instruction conversations"
    download = (
        "download LLaVA-Med's files to llava_med: alignment and instruct as download_data.sh of microsoft/LLaVA-Med"
        " (tag v1.0.0) names them, and the images to llava_med/images (its llava/data/download_images.py)"
    )
    part: str = "instruct-60k-im"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--part", choices=PARTS, default="instruct-60k-im", help="which file (instruct-60k-im)")

    def examples(self, folders: Folders) -> Examples:
        file = PARTS[self.part]
        path = Path(self.need(folders, f"llava_med/{file}", f"llava_med/{Path(file).name}"))
        images = self.need_images(folders, "llava_med/images")
        return lambda tally: each(json_records(path, tally), lambda record: [llava_example(record, images)], tally)

    def output_name(self) -> str:
        return f"llava-med_{self.part}.jsonl"
