"""Visual questions with short answers, scored by the strict ``exact`` protocol."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.data.conversations import CONVERSATION_KEYS, PLACEHOLDER
from medcap.datasets.rows import read_rows
from medcap.errors import UserError
from medcap.evaluation.protocols import exact
from medcap.evaluation.statistics import bootstrap_interval
from medcap.evaluation.tasks.base import ImageFinder, Row, Task, checked_rows, image_reader
from medcap.generation.prompt import user_message

GROUPS = ("question_type", "modality", "answer_type")
_ID_KEYS = ("question_id", "id", "qid")
_REFERENCE_KEYS = ("reference", "answer")
_META_KEYS = (*GROUPS, "options")


class VqaTask(Task):
    """One question and its accepted answers a row.

    The file is JSON or JSONL. A row has ``question``, ``reference`` (or ``answer``; text or a list of texts),
    ``image`` (relative to the file's folder or an image root; absent for a question without an image), and may have
    ``question_id``, ``answer_type``, ``options``, ``modality`` and ``question_type``. LLaVA-Med's ``test.json`` rows
    (``id``, ``image``, ``conversations`` or ``conversatons``, ``answer_type``) are read too, each pair of turns as
    one question.

    Example:
        >>> task = VqaTask()
        >>> rows = task.load("datasets/phantom/test/vqa.jsonl")
        >>> metrics, row_scores = task.score(rows, answers)
    """

    name = "vqa"
    protocol = exact.NAME
    protocol_description = exact.DESCRIPTION
    headline = "accuracy"
    marks_rows = True

    def load(
        self, source: str | Path, conversation_style: str = "auto", image_roots: Sequence[str | Path] | None = None
    ) -> list[Row]:
        """Read questions; see :meth:`Task.load`. The layout is told by the keys, not by ``conversation_style``."""
        path = Path(source)
        find = ImageFinder(image_reader(path, image_roots))
        rows = []
        for index, value in read_rows(path):
            try:
                rows += _rows(value, index, find)
            except UserError as error:
                raise UserError(f"{path}, row {index}: {error}") from None
        return checked_rows(rows, path)

    def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Score answers; see :meth:`Task.score`. The tables split the accuracy by question type, modality and
        answer type, as far as the rows have them."""
        row_scores = [
            {
                "id": row.id,
                "accuracy": float(exact.exact_match(prediction, row.references)),
                "token_f1": exact.token_f1(prediction, row.references),
            }
            for row, prediction in zip(rows, predictions, strict=True)
        ]
        intervals = {
            name: bootstrap_interval([scores[name] for scores in row_scores]) for name in ("accuracy", "token_f1")
        }
        metrics = {
            "scores": {name: interval.value for name, interval in intervals.items()},
            "intervals": {name: interval.as_dict() for name, interval in intervals.items()},
            "tables": {key: _table(key, rows, row_scores) for key in GROUPS if any(key in row.meta for row in rows)},
            "notices": [],
        }
        return metrics, row_scores


def _table(key: str, rows: Sequence[Row], row_scores: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row, scores in zip(rows, row_scores, strict=True):
        groups.setdefault(row.meta.get(key, "(none)"), []).append(scores)
    table = []
    for value in sorted(groups):
        interval = bootstrap_interval([scores["accuracy"] for scores in groups[value]])
        table.append(
            {
                key: value,
                "n": len(groups[value]),
                "correct": sum(scores["accuracy"] == 1.0 for scores in groups[value]),
                "accuracy": interval.value,
                "low": interval.low,
                "high": interval.high,
                "token_f1": sum(scores["token_f1"] for scores in groups[value]) / len(groups[value]),
            }
        )
    return table


def _rows(value: Any, index: int, find: ImageFinder) -> list[Row]:
    if not isinstance(value, Mapping):
        raise UserError(f"a row must be an object, not {type(value).__name__}")
    image = value.get("image")
    if image is not None and not isinstance(image, str):
        raise UserError("'image' must be a path")
    find.problem = None
    path = find(image) if image else None
    meta = {key: _meta_text(value[key]) for key in _META_KEYS if value.get(key) not in (None, "")}
    name = next((str(value[key]) for key in _ID_KEYS if value.get(key) not in (None, "")), str(index))
    return [
        Row(name, [user_message(path and str(path), question)], references, path, meta, find.problem)
        for question, references in _questions(value)
    ]


def _meta_text(value: Any) -> str:
    return " | ".join(map(str, value)) if isinstance(value, list) else str(value).strip()


def _questions(value: Mapping[str, Any]) -> Iterator[tuple[str, list[str]]]:
    turns_key = next((key for key in CONVERSATION_KEYS if key in value), None)
    if turns_key is None:
        if "question" not in value:
            raise UserError(f"there is no 'question' (the row has: {', '.join(map(str, value)) or 'nothing'})")
        reference_key = next((key for key in _REFERENCE_KEYS if value.get(key) is not None), None)
        if reference_key is None:
            raise UserError(f"there is no '{_REFERENCE_KEYS[0]}' to compare with")
        yield _question_text(value["question"]), _references(value[reference_key])
        return
    turns = value[turns_key]
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) and "value" in turn for turn in turns):
        raise UserError(f"'{turns_key}' must be a list of turns with 'from' and 'value'")
    turns = [turn for turn in turns if turn.get("from") != "system"]
    if len(turns) < 2 or len(turns) % 2:
        raise UserError(f"'{turns_key}' must be pairs of a question and an answer")
    for asked, answered in zip(turns[::2], turns[1::2], strict=True):
        if asked.get("from") not in ("human", "user") or answered.get("from") not in ("gpt", "assistant"):
            raise UserError(f"'{turns_key}' must alternate 'human' and 'gpt'")
        yield _question_text(asked["value"]), _references(answered["value"])


def _question_text(value: Any) -> str:
    text = str(value).replace("<image>", " ").replace(PLACEHOLDER, " ").strip()
    if not text:
        raise UserError("the question is empty")
    return text


def _references(value: Any) -> list[str]:
    references = [str(item).strip() for item in (value if isinstance(value, list) else [value])]
    if not references or not all(references):
        raise UserError("the reference is empty")
    return references
