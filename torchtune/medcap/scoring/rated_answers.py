"""Answers that a judge rated beside reference answers, and their comparison by what it gave."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from medcap.data.json_text import JsonError, parse_json
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError
from medcap.scoring.answers import read_answers
from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.question import Answer
from medcap.scoring.relative_scores import MEAN_OF_RATIOS, RatedAnswer, relative_scores

_ANSWERS, _METRICS = "predictions.jsonl", "ratings_metrics.json"
_SCORES = ("reference_score", "prediction_score")


class RelativeScore(Protocol):
    """The judge's score of each answer over that of its reference; several orders are averaged.

    An answer that is missing counts as 0, and one without two scores is in no mean, as in ``ratings_metrics.json``.
    """

    name = "relative_score"
    description = "a judge's score of the answer over its score of the reference answer, as a mean over rows"
    headline = MEAN_OF_RATIOS
    share = False

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score answers that have ratings; see :meth:`Protocol.score`.

        Raises:
            UserError: if not one answer has two scores.
        """
        rated = [
            RatedAnswer(answer.question.id, answer.ratings, answer.failed, {}, answer.question.cluster)
            for answer in answers
        ]
        block = relative_scores(rated)
        if not block["scores"]:
            raise UserError("no answer that is compared has two scores of a judge: rate them first (exp=eval_chat)")
        rows = [{"question_id": row.id, "correct": None, "value": _value(row)} for row in rated]
        counts = {name: block[name] for name in ("n", "failures")}
        return ProtocolScores(block["scores"], block["intervals"], rows, counts, clustered=True)


def read_ratings(path: Path) -> list[Answer]:
    """Read the answers of a file of ratings, and from the answers beside it those that are missing.

    Args:
        path: ``ratings.jsonl``.

    Returns:
        The answers, each with its ratings in the orders that the file has; none where an order is missing or its reply
        holds no two scores.

    Raises:
        UserError: if the file cannot be read, or is no file of ratings.
    """
    given: dict[str, dict[str, tuple[float, float] | None]] = {}
    for index, row in read_rows(path):
        if not isinstance(row, Mapping) or not row.keys() >= {"question_id", "order", *_SCORES}:
            raise UserError(f"{path}, row {index}: this is no rating of a judge; give a ratings.jsonl")
        reference, prediction = (row[name] for name in _SCORES)
        # There is no ratio to 0.
        given.setdefault(str(row["question_id"]), {})[str(row["order"])] = (
            (reference, prediction) if reference and prediction is not None else None
        )
    orders = sorted({order for pairs in given.values() for order in pairs})  # published before swapped
    answers = [replace(it, ratings=_in_order(given[it.question.id], orders)) for it in read_answers(path)]
    beside = path.with_name(_ANSWERS)
    missing = [it for it in read_answers(beside) if it.failed] if beside.is_file() else []
    return answers + [it for it in missing if it.question.id not in given]


def judge_of(path: Path) -> str:
    """Return who gave a file of ratings and in which orders, for people; "" where the file beside it does not say."""
    try:
        metrics = parse_json(path.with_name(_METRICS).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, JsonError):
        return ""
    return f"{metrics.get('judge')}, orders={metrics.get('orders')}" if isinstance(metrics, Mapping) else ""


def _in_order(
    pairs: Mapping[str, tuple[float, float] | None], orders: Sequence[str]
) -> tuple[tuple[float, float], ...]:
    found = [pairs.get(order) for order in orders]
    return tuple(pair for pair in found if pair is not None) if all(found) else ()


def _value(row: RatedAnswer) -> float | None:
    if not row.counted:
        return None
    return float(np.mean([prediction / reference for reference, prediction in row.pairs])) if row.pairs else 0.0
