"""GMAI-MMBench's validation part: questions about images of 38 modalities, in one table with the images in it.

``GMAI_mm_bench_VAL.tsv`` of ``OpenGVLab/GMAI-MMBench`` (``GMAI-MMBench_VAL.tsv`` of ``VLMEval/GMAI-MMBench``) is a
tab-separated table as pandas writes it, with quotes: ``index``, ``image`` (base64), ``question``, ``A`` to ``E``,
``answer`` (a letter), ``category`` (the right option's words), ``clinical VQA task``, ``department``, ``perceptual
granularity`` and ``modality``. VLMEvalKit (e8e78f05, ``vlmeval/dataset/image_mcq.py``, ``GMAIMMBenchDataset``) reads it
so. An option is absent where pandas reads nothing. The answers of the test part are withheld.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping

from medcap.datasets.published.choices.question import LETTERS, ChoiceQuestion, columns_of
from medcap.datasets.published.fields import field_text, question_text
from medcap.datasets.published.finding import Found, Layout
from medcap.datasets.published.reading import Tally, csv_records

_NAMES = ("GMAI_mm_bench_VAL.tsv", "GMAI-MMBench_VAL.tsv")
LAYOUT = Layout(("GMAI-MMBench", "GMAI", "LMUData"), {"tsv": _NAMES})
COLUMNS = ("index", "image", "question", "A", "B")
_OPTIONS = LETTERS[:5]
# What pandas' read_csv takes for an empty cell (pandas/_libs/parsers.pyx, STR_NA_VALUES).
_ABSENT = frozenset(
    ("", "-1.#IND", "1.#QNAN", "1.#IND", "-1.#QNAN", "#N/A N/A", "#N/A", "N/A", "n/a", "NA", "<NA>", "#NA", "NULL")
) | frozenset(("null", "NaN", "-NaN", "nan", "-nan", "None"))
_SHORTEST_IMAGE = 64  # characters; VLMEvalKit takes a shorter text for the index of a row with the same image


def questions(found: Found, tally: Tally) -> Iterator[ChoiceQuestion]:
    """Read the questions of the table.

    Args:
        found: the file.
        tally: counts damaged rows.

    Raises:
        UserError: if it lacks a column.
    """
    for location, row in csv_records(found.files[0], COLUMNS, tally, delimiter="\t", quoted=True):
        columns = columns_of({letter: _cell(row, letter) for letter in _OPTIONS})
        content, problem = _image(row["image"])
        yield ChoiceQuestion(
            location,
            field_text(row["index"]),
            question_text(row["question"]),
            columns,
            _cell(row, "answer") or _letter_of(_cell(row, "category"), columns),
            (content,),
            meta={
                "modality": _cell(row, "modality"),
                "question_type": _cell(row, "clinical VQA task"),
                "department": _cell(row, "department"),
                "granularity": _cell(row, "perceptual granularity"),
            },
            problem=problem,
        )


def _cell(row: Mapping[str, str], column: str) -> str:
    text = row.get(column, "").strip()
    return "" if text in _ABSENT else text


def _letter_of(category: str, columns: tuple[str, ...]) -> str:
    """Return the letter of the option that the category is; the category's words where it is none."""
    plain = category.rstrip(".").lower()
    found = [LETTERS[index] for index, option in enumerate(columns) if plain and option.rstrip(".").lower() == plain]
    return found[0] if len(found) == 1 else category


def _image(text: str) -> tuple[bytes | None, str | None]:
    text = text.strip()
    if not text:
        return None, "the file holds no image for it"
    if len(text) <= _SHORTEST_IMAGE:
        return None, f"its image is given by another row's index ({text}), which is not read"
    try:
        return base64.b64decode(text, validate=True), None
    except ValueError as error:
        return None, f"its image is not base64 ({error})"
