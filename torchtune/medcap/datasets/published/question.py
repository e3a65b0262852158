"""One question of a published data set, and files of which a row is a question."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import HUB, Found
from medcap.datasets.published.reading import Tally, json_records, parquet_records
from medcap.datasets.rows.parquet_rows import image_content

HUB_COLUMNS = ("image", "question", "answer")


@dataclass(frozen=True, slots=True)
class PublishedQuestion:
    """The fields of a question in a file; values that are ``Any`` are unchecked.

    Attributes:
        location: the file and row, for messages.
        id: its name in the file, or its number.
        question: its words.
        answers: accepted ones, at least one field, which may be empty.
        image: name of the image; None where it is in the file.
        suffixes: what may have to be added to the name.
        content: the encoded image, where it is in the file; None where it lacks.
        conversation: the row that the question is from, where that is one of LLaVA's with several turns.
        turn: number of the question in it.
        options: options of a multiple-choice question, without empty ones.
        answer_type: open or closed, in the file's words.
        language: language of the question; empty where the file does not say it.
        meta: further fields, such as ``modality``, ``question_type``, ``organ``.
    """

    location: str
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


def read_questions(
    found: Found,
    tally: Tally,
    image_key: str = "image",
    further: Sequence[str] = (),
    meta: Mapping[str, str] | None = None,
) -> Iterator[PublishedQuestion]:
    """Read a JSON file of rows, or the hub's parquet files, whose images are in them; a row is a question.

    Both have ``question`` and ``answer``, and may have ``qid``, ``answer_type`` and ``q_lang``.

    Args:
        found: the files.
        tally: counts damaged rows.
        image_key: the field with an image's name; in parquet files it is ``image`` and holds the image.
        further: fields that a row of the JSON file has beside these.
        meta: name of a further field -> its key.

    Raises:
        UserError: if a file is damaged, or a parquet file lacks a column.
    """
    hub, path = found.kind == HUB, found.files[0]
    records = parquet_records(found.files, HUB_COLUMNS, tally) if hub else json_records(path, tally)
    for index, (location, row) in enumerate(records):
        if not hub:
            tally.check_first(path, row, (image_key, "question", "answer", *further))
        yield PublishedQuestion(
            location,
            field_text(row.get("qid")) or str(index),
            row.get("question"),
            (row.get("answer"),),
            None if hub else row.get(image_key),
            content=image_content(row["image"]) if hub else None,
            answer_type=row.get("answer_type"),
            language=field_text(row.get("q_lang")),
            meta={name: row.get(key) for name, key in (meta or {}).items()},
        )
