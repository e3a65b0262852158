"""Rad-ReStruct: conversations that fill in a structured report, topic by topic."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass

from medcap.datasets.conversion.base import Converter, Examples, Folders, add_split
from medcap.datasets.conversion.example import Example, Tally
from medcap.datasets.conversion.questions import find_source, image_folders, locate
from medcap.datasets.published import radrestruct

_BETWEEN = ", "


@dataclass(frozen=True)
class RadReStruct(Converter):
    """A conversation is a topic of a report: its first question has nothing above it, the others follow in the file.

    Args:
        split: ``train`` or ``validation``.
    """

    name = "radrestruct"
    converts = "Rad-ReStruct: conversations that fill in structured reports of chest X-rays"
    download = (
        "clone ChantalMP/Rad-ReStruct to Rad-ReStruct, and unpack NLMCXR_png.tgz of openi.nlm.nih.gov to"
        " Rad-ReStruct/data/radrestruct/images"
    )
    split: str = "train"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        add_split(parser)

    def output_name(self) -> str:
        return f"radrestruct_{self.split}.jsonl"

    def examples(self, folders: Folders) -> Examples:
        layout = radrestruct.layout(self.split)
        found = find_source(self, folders, layout)
        locations = image_folders(self, folders, layout)

        def read(tally: Tally) -> Iterator[tuple[str, Example]]:
            topic: list[radrestruct.ReportQuestion] = []
            for it in radrestruct.questions(found, tally):
                if topic and (not it.history or it.image != topic[0].image):
                    yield from _conversation(topic, locations, tally)
                    topic = []
                topic.append(it)
            if topic:
                yield from _conversation(topic, locations, tally)

        return read


def _conversation(
    topic: list[radrestruct.ReportQuestion], locations: list[str], tally: Tally
) -> Iterator[tuple[str, Example]]:
    first = topic[0]
    if first.image is None:
        tally.skip("no image of the report is known", first.location)
        return
    turns = [(it.question, _BETWEEN.join(it.answers)) for it in topic]
    example = Example(turns, (first.image,), fields={"patient": first.report})
    yield first.location, locate(example, locations)
