"""The columns of PMC-VQA's CSV files, of both versions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from medcap.datasets.published.fields import field_text

LETTERS = "ABCD"
COLUMNS = ("Figure_path", "Question", *(f"Choice {letter}" for letter in LETTERS))
# Version 2 has its figures one by one, in a folder of another name.
IMAGE_FOLDERS = ("images", "figures", "images_2", "images2", "images/images", "images_2/figures", "images2/figures")
# As the file spells them, and as its description does.
_ANSWERS = ("Answer", "Anwser")
_LABELS = ("Answer_label", "Anwser_label")


def missing_columns(columns: Iterable[str]) -> list[str]:
    """The columns that a file of PMC-VQA has and this one lacks."""
    there = set(columns)
    missing = [column for column in COLUMNS if column not in there]
    return missing if there.intersection((*_ANSWERS, *_LABELS)) else [*missing, _ANSWERS[0]]


def choices_of(record: Mapping[str, str]) -> dict[str, str]:
    """The options by their letter, without the letter that stands before the text."""
    return {letter: re.sub(rf"^\s*{letter}\s*:", "", record[f"Choice {letter}"]).strip() for letter in LETTERS}


def right_answer(record: Mapping[str, str], choices: Mapping[str, str]) -> str:
    """The text of the right choice: the label's, else that of a letter in ``Answer``, else ``Answer`` itself."""
    answer = next((field_text(record[key]) for key in _ANSWERS if key in record), "")
    label = next((field_text(record[key]) for key in _LABELS if key in record), "") or answer
    letter = label.upper().rstrip(":. ")
    if letter in choices:
        return choices[letter] or (answer if answer != label else "")
    return re.sub(rf"^\s*[{LETTERS}]\s*:", "", answer).strip()
