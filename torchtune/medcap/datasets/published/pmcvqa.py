"""PMC-VQA's CSV files, of both versions: four-option questions about the figures of articles."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping

from medcap.datasets.published.fields import field_text, option_texts
from medcap.datasets.published.finding import Found, Layout
from medcap.datasets.published.question import PublishedQuestion
from medcap.datasets.published.reading import Tally, csv_heading, csv_records

LETTERS = "ABCD"
COLUMNS = ("Figure_path", "Question", *(f"Choice {letter}" for letter in LETTERS))
# Version 2 has its figures one by one, in a folder of another name.
IMAGE_FOLDERS = ("images", "figures", "images_2", "images2", "images/images", "images_2/figures", "images2/figures")
# As the file spells them, and as its description does.
_ANSWERS = ("Answer", "Anwser")
_LABELS = ("Answer_label", "Anwser_label")
_FOLDERS = ("PMC-VQA", "PMC_VQA", "pmc-vqa", "pmc_vqa", "pmcvqa")
# The files of version 2 are called ``train_2.csv`` and, in other copies, ``train2.csv``.
FILES = {
    "train": ("train.csv",),
    "train_2": ("train_2.csv", "train2.csv"),
    "test": ("test_clean.csv", "test.csv", "test_2.csv", "test2.csv"),
}


def layout(split: str) -> Layout:
    """Return the names of a split's files; the first that is there is taken."""
    return Layout(_FOLDERS, {"csv": FILES[split]}, IMAGE_FOLDERS)


def questions(found: Found, tally: Tally) -> Iterator[PublishedQuestion]:
    """Read rows with ``Figure_path``, ``Question``, ``Choice A`` to ``Choice D`` (with the letter before the text, as
    in ``A:Diffuse uptake``), ``Answer`` and ``Answer_label``; in version 2 ``Answer`` is the letter.

    Raises:
        UserError: if the file lacks a column.
    """
    check_columns(found)
    for index, (location, row) in enumerate(csv_records(found.files[0], COLUMNS, tally)):
        choices = choices_of(row)
        yield PublishedQuestion(
            location,
            field_text(row.get("index")) or str(index),
            row["Question"],
            (right_answer(row, choices),),
            row["Figure_path"],
            options=option_texts(choices.values()),
        )


def check_columns(found: Found) -> None:
    """Check the heading before anything is written.

    Raises:
        UserError: if the file lacks a column.
    """
    path = found.files[0]
    csv_heading(path, missing_columns(csv_heading(path, ())))


def missing_columns(columns: Iterable[str]) -> list[str]:
    """Return the columns that a file of PMC-VQA has and this one lacks."""
    there = set(columns)
    missing = [column for column in COLUMNS if column not in there]
    return missing if there.intersection((*_ANSWERS, *_LABELS)) else [*missing, _ANSWERS[0]]


def choices_of(record: Mapping[str, str]) -> dict[str, str]:
    """Return the options by their letter, without the letter that comes before the text."""
    return {letter: re.sub(rf"^\s*{letter}\s*:", "", record[f"Choice {letter}"]).strip() for letter in LETTERS}


def right_answer(record: Mapping[str, str], choices: Mapping[str, str]) -> str:
    """Return the text of the right choice: the label's, else that of a letter in ``Answer``, else ``Answer`` itself."""
    answer = next((field_text(record[key]) for key in _ANSWERS if key in record), "")
    label = next((field_text(record[key]) for key in _LABELS if key in record), "") or answer
    letter = label.upper().rstrip(":. ")
    if letter in choices:
        return choices[letter] or (answer if answer != label else "")
    return re.sub(rf"^\s*[{LETTERS}]\s*:", "", answer).strip()
