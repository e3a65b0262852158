"""MMMU's five subjects of health and medicine.

``<Subject>/validation-*.parquet`` of ``MMMU/MMMU`` has ``id`` (``validation_Pharmacy_12``), ``question`` and
``options`` (a Python list as text) with marks ``<image 1>`` to ``<image 7>``, ``image_1`` to ``image_7``, ``answer`` (a
letter; an open question's accepted answer, or a list of them as text; ``?`` where it is withheld), ``question_type``
(``multiple-choice`` or ``open``), ``subfield``, ``img_type`` and ``topic_difficulty`` (Yue et al., 2024,
arXiv:2311.16502, and the card of the hub).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from medcap.data.row_layouts import PLACEHOLDER
from medcap.datasets.published.choices.question import ChoiceQuestion, columns_of
from medcap.datasets.published.fields import field_text, field_words, question_text
from medcap.datasets.published.finding import HUB, Found, Layout, find_files
from medcap.datasets.published.reading import Tally, parquet_records
from medcap.datasets.rows.parquet_rows import image_content

SUBJECTS = (
    *("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine"),
    *("Pharmacy", "Public_Health"),
)
CHOICE, OPEN = "multiple-choice", "open"  # values of question_type
_ENDINGS = ("validation-*.parquet", "validation/*.parquet")
LAYOUT = Layout(
    ("MMMU", "MMMU/MMMU", "mmmu"), {HUB: tuple(f"{subject}/{ending}" for subject in SUBJECTS for ending in _ENDINGS)}
)
_IMAGES = tuple(f"image_{number}" for number in range(1, 8))
_MARK = re.compile(r"<image (\d)>")
_SUBJECT = re.compile(r"^(?:dev|validation|test)_(.+)_\d+$")
_WITHHELD = "?"


def all_subjects(found: Found) -> tuple[Found, list[str]]:
    """Find the files of every subject beside those of the first.

    Args:
        found: the files of one subject, or a file that the user named, which stays alone.

    Returns:
        The files of all subjects, and the subjects that are not there.
    """
    if found.named:
        return found, []
    files, missing = [], []
    for subject in SUBJECTS:
        own = find_files(found.folder, ("",), {HUB: tuple(f"{subject}/{ending}" for ending in _ENDINGS)})
        files += own.files if own else []
        missing += [] if own else [subject]
    return replace(found, files=files), missing


def questions(found: Found, tally: Tally) -> Iterator[ChoiceQuestion]:
    """Read the questions of all files.

    Where the marks of a question's words name its images in their order, each once, the images stand there. Otherwise,
    as where options are images, all stand before the words, and a mark becomes the words ``image 2``.

    Args:
        found: the files.
        tally: counts rows.
    """
    rows = parquet_records(found.files, ("id", "question", "options", "answer", "question_type", "image_1"), tally)
    for index, (location, row) in enumerate(rows):
        name = field_text(row.get("id")) or str(index)
        subject = _SUBJECT.match(name)
        contents = [image_content(row.get(column)) for column in _IMAGES]
        words, options = question_text(row.get("question")), _listed(row.get("options")) or []
        named = [int(number) for number in _MARK.findall(words)]
        in_options = any(_MARK.search(field_words(option)) for option in options)
        count = max([number for number, content in enumerate(contents, 1) if content is not None] + named, default=0)
        if named == list(range(1, count + 1)) and not in_options:
            words = _MARK.sub(PLACEHOLDER, words)
        else:
            words = _MARK.sub(r"image \1", words)
            options = [_MARK.sub(r"image \1", field_words(option)) for option in options]
        is_open = field_text(row.get("question_type")) == OPEN
        answer = field_text(row.get("answer"))
        answer = "" if answer == _WITHHELD else answer
        yield ChoiceQuestion(
            location,
            name,
            words,
            None if is_open else columns_of(options),
            _accepted(answer) if is_open else answer,
            tuple(contents[number] if number < len(contents) else None for number in range(count)),
            meta={
                "task": OPEN if is_open else CHOICE,
                "question_type": subject[1].replace("_", " ") if subject else None,
                "modality": ", ".join(map(field_words, _listed(row.get("img_type")) or [])),
            },
        )


def _listed(value: Any) -> list[Any] | None:
    """Return the list that a text spells, as ``"['a', 'b']"``; None where it spells none."""
    if isinstance(value, list):
        return value
    try:
        listed = ast.literal_eval(field_text(value))
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    return listed if isinstance(listed, list) else None


def _accepted(answer: str) -> tuple[str, ...]:
    return tuple(filter(None, map(field_words, _listed(answer) or [answer])))
