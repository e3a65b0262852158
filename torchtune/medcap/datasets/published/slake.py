"""SLAKE's files: questions about radiology images, in English and Chinese."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import HUB, Found, Layout, hub_files
from medcap.datasets.published.question import PublishedQuestion, read_questions
from medcap.datasets.published.reading import Tally, json_records

ENGLISH = ("en", "")  # the hub's English copy does not say it
_FOLDERS = ("Slake1.0", "Slake", "SLAKE", "slake", "Slake/Slake1.0", "SLAKE-vqa-english")
_FILES = {"train": "train.json", "validation": "validate.json", "test": "test.json"}
_META = {"modality": "modality", "question_type": "content_type", "organ": "location"}


def layout(split: str) -> Layout:
    """Return the names of a split's files: ``train``, ``validation`` or ``test``."""
    return Layout(_FOLDERS, {"official": (_FILES[split],), HUB: hub_files(split)}, ("imgs",))


def questions(found: Found, tally: Tally) -> Iterator[PublishedQuestion]:
    """Read rows with ``qid``, ``img_name``, ``question``, ``answer``, ``q_lang``, ``answer_type``, ``content_type``,
    ``location`` and ``modality``, or the hub's English copy, which has its images in it and not all of these.
    """
    return read_questions(found, tally, "img_name", ("q_lang",), _META)


def image_rows(found: Found, tally: Tally) -> dict[str, Mapping[str, Any]]:
    """Return the first row about each image of a split by the image's name; the tally does not count rows."""
    rows: dict[str, Mapping[str, Any]] = {}
    read = tally.read
    for _, row in json_records(found.files[0], tally):
        name = field_text(row.get("img_name"))
        if name and ".." not in PurePosixPath(name).parts and not name.startswith("/"):
            rows.setdefault(name, row)
    tally.read = read
    return rows
