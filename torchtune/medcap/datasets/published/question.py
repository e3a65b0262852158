"""One question of a published data set, and those of the hub's parquet files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcap.datasets.published.fields import field_text
from medcap.datasets.published.reading import Tally, parquet_records
from medcap.datasets.rows.parquet_rows import image_content


@dataclass(frozen=True, slots=True)
class PublishedQuestion:
    """What a file says; values that are ``Any`` are as they stand there, unchecked.

    Attributes:
        place: the file and row, for messages.
        id: its name in the file, or its number.
        question: its words.
        answers: accepted ones, at least one field, which may be empty.
        image: name of the image; None where it lies in the file.
        suffixes: what may have to be added to the name.
        content: the encoded image, where it lies in the file; None where it lacks.
        conversation: the row that the question is from, where that is one of LLaVA's with several turns.
        turn: number of the question in it.
        options: of a multiple-choice question, without empty ones.
        answer_type: open or closed, in the file's words.
        language: of the question; empty where all have one.
        meta: further fields, such as ``modality``, ``question_type``, ``organ``.
    """

    place: str
    id: str
    question: Any
    answers: Sequence[Any]
    image: Any = None
    suffixes: tuple[str, ...] = ("",)
    content: bytes | None = None
    conversation: Mapping[str, Any] | None = None
    turn: int = 0
    options: tuple[str, ...] = ()
    answer_type: Any = None
    language: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


def hub_records(files: Sequence[Path], tally: Tally) -> Iterator[tuple[Mapping[str, Any], PublishedQuestion]]:
    """Read questions whose images lie in the same file: columns ``image``, ``question`` and ``answer``.

    Yields:
        The row's columns, and the question that these three make.

    Raises:
        UserError: if a file is damaged or lacks a column.
    """
    records = parquet_records(files, ("image", "question", "answer"), tally)
    for index, (place, row) in enumerate(records):
        name = field_text(row.get("qid")) or str(index)
        content = image_content(row["image"])
        yield row, PublishedQuestion(place, name, row["question"], (row["answer"],), content=content)
