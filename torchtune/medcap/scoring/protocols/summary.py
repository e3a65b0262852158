"""From rows' values to means and intervals: what the protocols share."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from medcap.errors import UserError
from medcap.scoring.question import Answer
from medcap.scoring.replies.final_reply import final_reply
from medcap.scoring.statistics import SHARE, bootstrap_interval


def check_answers(answers: Sequence[Answer], protocol: str) -> dict[str, int]:
    """Check that there is something to score.

    Args:
        answers: what a protocol was given.
        protocol: its name.

    Returns:
        The counts ``n`` and ``failures``; and ``reasoning``, the replies with a model's reasoning or tags, where there
        are any.

    Raises:
        UserError: if there are no answers.
    """
    if not answers:
        raise UserError(f"{protocol}: there are no answers to score")
    counts = {"n": len(answers), "failures": sum(answer.failed for answer in answers)}
    reasoning = len(_with_reasoning(answers))
    return counts | ({"reasoning": reasoning} if reasoning else {})


def row_means(
    rows: Sequence[dict[str, Any]],
    keys: dict[str, str],
    clusters: Sequence[Hashable] | None = None,
    kinds: Mapping[str, str] | None = None,
) -> tuple[dict[str, float], dict[str, dict[str, Any]]]:
    """Means over rows with their bootstrap intervals.

    Args:
        rows: rows of a protocol.
        keys: name of a score -> key of the rows' values that it is the mean of. A row without the key, or with None,
            is not in its denominator.
        clusters: cluster of each row, which is drawn as a whole; None draws single rows.
        kinds: name of a score -> kind of its values, where it is not a share; only for rows with clusters.

    Returns:
        The scores and their intervals; a score without any row is absent from both.
    """
    scores, intervals = {}, {}
    for name, key in keys.items():
        kept = [index for index, row in enumerate(rows) if row.get(key) is not None]
        values = [rows[index][key] for index in kept]
        if values:
            # Python's own sum, as the published evaluators take it.
            scores[name] = sum(values) / len(values)
            if clusters is None:
                interval = bootstrap_interval(values)
            else:
                kind = (kinds or {}).get(name, SHARE)
                interval = bootstrap_interval(values, kind=kind, clusters=[clusters[index] for index in kept])
            intervals[name] = interval.as_dict()
    return scores, intervals


def count_notice(rows: str, found: Sequence[Answer], answers: Sequence[Answer]) -> list[str]:
    """Say how many rows something holds for.

    Args:
        rows: what they are, such as "rows without options".
        found: those rows.
        answers: all rows.

    Returns:
        One line with the first row's id; nothing where there is no such row.
    """
    if not found:
        return []
    return [f"{rows}: {len(found)} of {len(answers)} (the first is {found[0].question.id})"]


def reasoning_notice(answers: Sequence[Answer], published: bool = False) -> list[str]:
    """Say how many replies hold a model's reasoning, and what became of it.

    Args:
        answers: all rows.
        published: whether the rule is a published one, which reads what a model said as it stands.

    Returns:
        A line for each kind of reply that there is.
    """
    found = _with_reasoning(answers)
    if published:
        return count_notice("replies with reasoning or tags, which the published rule reads as a whole", found, answers)
    cut_off = [answer for answer in found if not final_reply(answer.prediction)]
    return [
        *count_notice("replies with reasoning or tags, which are taken off", found, answers),
        *count_notice("replies that end within their reasoning, counted as wrong", cut_off, answers),
    ]


def _with_reasoning(answers: Sequence[Answer]) -> list[Answer]:
    return [answer for answer in answers if not answer.failed and final_reply(answer.prediction) != answer.prediction]


def one_reference_notice(answers: Sequence[Answer]) -> list[str]:
    """Say so where a rule that knows one reference meets rows with several."""
    several = [answer for answer in answers if len(answer.question.references) > 1]
    return count_notice("rows with several references, of which this rule takes the first", several, answers)
