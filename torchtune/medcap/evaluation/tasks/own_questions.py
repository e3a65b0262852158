"""A protocol for one kind of a benchmark's questions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.question import Answer


def of_tasks(protocol: Protocol, tasks: Sequence[str]) -> Protocol:
    """Return a protocol that scores the questions of some kinds; the others are in no denominator.

    Args:
        protocol: of a published evaluator that is given files of these questions alone.
        tasks: values of a question's ``task``.
    """
    kind, name = type(protocol), " or ".join(tasks)

    def score(self: Protocol, answers: Sequence[Answer]) -> ProtocolScores:
        own = [answer.question.meta.get("task") in tasks for answer in answers]
        kept = [answer for answer, mine in zip(answers, own, strict=True) if mine]
        if not kept:
            rows = [_nothing(answer) for answer in answers]
            return ProtocolScores({}, {}, rows, {"n": 0, "failures": 0}, [f"no question is of {name}"])
        result: Any = kind.score(self, kept)
        rows = iter(result.rows)
        result.rows = [next(rows) if mine else _nothing(answer) for answer, mine in zip(answers, own, strict=True)]
        if getattr(result, "clusters", None) is not None:  # what a row is drawn with in intervals
            clusters = iter(result.clusters)
            result.clusters = [next(clusters) if mine else "" for mine in own]
        if len(kept) < len(answers):
            result.notices.append(f"{len(kept):,} of {len(answers):,} rows are questions of {name}")
        return result

    return type(kind.__name__, (kind,), {"score": score, "__doc__": kind.__doc__})()


def _nothing(answer: Answer) -> dict[str, Any]:
    return {"question_id": answer.question.id, "correct": None, "value": None}
