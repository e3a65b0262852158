"""IU X-Ray: reports of chest X-rays in two views."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from medcap.datasets.conversion.base import Converter, Examples, Folders, add_split
from medcap.datasets.conversion.example import Example, SkipRecord, each
from medcap.datasets.conversion.fields import safe_name
from medcap.datasets.conversion.questions import find_source, image_folders, locate
from medcap.datasets.published.captions import iu_xray
from medcap.datasets.published.captions.caption import PublishedCaption
from medcap.datasets.published.finding import Layout

_SPLITS = {"train": "train", "validation": "val"}
_LAYOUT = Layout(iu_xray.LAYOUT.folders, {iu_xray.R2GEN: iu_xray.LAYOUT.kinds[iu_xray.R2GEN]}, iu_xray.LAYOUT.images)


@dataclass(frozen=True)
class IuXray(Converter):
    """R2Gen's split; a row shows all views of a study, as the task ``iu_xray`` asks about them.

    Args:
        split: ``train`` or ``validation``.
    """

    name = "iu-xray"
    converts = "IU X-Ray: reports of chest X-rays in two views"
    download = "unpack iu_xray.zip of zhjohnchan/R2Gen: iu_xray/annotation.json and iu_xray/images"
    split: str = "train"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_split(parser)

    def output_name(self) -> str:
        return f"iu-xray_{self.split}.jsonl"

    def examples(self, folders: Folders) -> Examples:
        found = find_source(self, folders, _LAYOUT)
        locations = image_folders(self, folders, _LAYOUT)

        def convert(it: PublishedCaption) -> Iterator[Example]:
            names = [safe_name(name) if isinstance(name, str) else "" for name in it.images]
            if not names or not all(names):
                raise SkipRecord("'image_path' is not a list of names")
            if not it.caption:
                raise SkipRecord("'report' is empty")
            first, *further = names
            example = Example(
                [(iu_xray.WORDS[found.kind], it.caption)], (first,), further=tuple(further), fields=it.meta
            )
            yield locate(example, locations)

        return lambda tally: each(
            ((it.location, it) for it in iu_xray.reports(found, tally, _SPLITS[self.split])), convert, tally
        )
