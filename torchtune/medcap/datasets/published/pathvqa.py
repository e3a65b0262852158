"""PathVQA's files: questions about pathology figures. The official files are pickles and are not read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medcap.data.conversations import CONVERSATION_KEYS
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.finding import HUB, Found, Layout, hub_files
from medcap.datasets.published.llava_turns import conversation_questions
from medcap.datasets.published.question import PublishedQuestion, hub_records
from medcap.datasets.published.reading import Damage, json_records
from medcap.errors import UserError

SUFFIXES = ("", ".jpg", ".png")  # the official files name images without
_FOLDERS = ("path-vqa", "PathVQA", "pathvqa", "path_vqa", "pvqa", "pvqa/pvqa")
_NAMES = {"train": ("train",), "validation": ("val", "validation"), "test": ("test",)}
_ID_KEYS = ("question_id", "qid", "id")


def layout(split: str) -> Layout:
    """The names of a split's files: ``train``, ``validation`` or ``test``."""
    names = _NAMES[split]
    endings = ("{}.json", "{}.jsonl", "{}_qa.json", "{}_vqa.json", "qas/{}/*.json")
    files = tuple(ending.format(name) for ending in endings for name in names)
    images = ("images", *(f"images/{name}" for name in names[::-1]), *names)
    return Layout(_FOLDERS, {HUB: hub_files(split), "json": files}, images)


def rows(found: Found, damage: Damage) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Read the rows of a JSON file: LLaVA-Med's (``image``, ``conversations``, ``answer_type``), or ``image``,
    ``question`` and ``answer``.

    Yields:
        The file and row in words, and the row.
    """
    path = found.files[0]
    for place, row in json_records(path, damage):
        damage.check_first(path, row, ("image",) if conversation_key(row) else ("image", "question", "answer"))
        yield place, row


def conversation_key(row: Mapping[str, Any]) -> str | None:
    """The key of a row's turns; None for a row that is not LLaVA-Med's."""
    return next((key for key in CONVERSATION_KEYS if key in row), None)


def questions(found: Found, damage: Damage) -> Iterator[PublishedQuestion]:
    """Read the hub's copy, or each question of each row of :func:`rows`.

    Raises:
        UserError: if the turns of a conversation are not pairs.
    """
    if found.kind == HUB:
        yield from (question for _, question in hub_records(found.files, damage))
        return
    for index, (place, row) in enumerate(rows(found, damage)):
        yield from row_questions(place, index, row)


def row_questions(place: str, index: int, row: Mapping[str, Any]) -> list[PublishedQuestion]:
    """The questions of a row; see :func:`questions`."""
    key = conversation_key(row)
    if key is None:
        answer = row.get("answer")
        pairs = [(row.get("question"), answer if isinstance(answer, list) else [answer])]
    else:
        try:
            pairs = [(asked, [answer]) for asked, answer in conversation_questions(row[key], key)]
        except UserError as error:
            raise UserError(f"{place}: {error}") from None
    return [
        PublishedQuestion(
            place,
            next(filter(None, (field_text(row.get(key)) for key in _ID_KEYS)), str(index)),
            question,
            answers,
            row.get("image"),
            SUFFIXES,
            answer_type=row.get("answer_type"),
            meta={"question_type": row.get("question_type")},
        )
        for question, answers in pairs
    ]
