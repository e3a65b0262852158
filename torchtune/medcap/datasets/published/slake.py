"""SLAKE's files: questions about radiology images, in English and Chinese."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import HUB, Found, Layout, hub_files
from medcap.datasets.published.question import PublishedQuestion, hub_records
from medcap.datasets.published.reading import Tally, json_records

ENGLISH = "en"
_FOLDERS = ("Slake1.0", "Slake", "SLAKE", "slake", "Slake/Slake1.0", "SLAKE-vqa-english")
_FILES = {"train": "train.json", "validation": "validate.json", "test": "test.json"}


def layout(split: str) -> Layout:
    """The names of a split's files: ``train``, ``validation`` or ``test``."""
    return Layout(_FOLDERS, {"official": (_FILES[split],), HUB: hub_files(split)}, ("imgs",))


def questions(found: Found, tally: Tally) -> Iterator[PublishedQuestion]:
    """Read rows with ``qid``, ``img_name``, ``question``, ``answer``, ``q_lang``, ``answer_type``, ``content_type``,
    ``location`` and ``modality``, or the hub's English copy, which has its images in it and not all of these.
    """
    if found.kind == HUB:
        for row, question in hub_records(found.files, tally):
            yield _with_fields(question, row)
        return
    for path in found.files:
        for index, (place, row) in enumerate(json_records(path, tally)):
            tally.check_first(path, row, ("img_name", "question", "answer", "q_lang"))
            name = field_text(row.get("qid")) or str(index)
            question = PublishedQuestion(place, name, row.get("question"), (row.get("answer"),), row.get("img_name"))
            yield _with_fields(question, row)


def _with_fields(question: PublishedQuestion, row: Mapping[str, Any]) -> PublishedQuestion:
    meta = {"modality": "modality", "question_type": "content_type", "organ": "location"}
    return replace(
        question,
        answer_type=row.get("answer_type"),
        language=field_text(row.get("q_lang")) or ENGLISH,
        meta={name: row.get(key) for name, key in meta.items()},
    )
