"""A model's scores relative to those of reference answers, where a judge gave both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medcap.scoring.statistics import NUMBER, bootstrap_interval, bootstrap_of_sums, sums_of_clusters
from medcap.scoring.tables import NO_GROUP

MEAN_OF_RATIOS = "mean_of_ratios"
RATIO_OF_MEANS = "ratio_of_means"
RELATIVE = (MEAN_OF_RATIOS, RATIO_OF_MEANS)
_COLUMNS = (_JUDGED, _FAILED, _REFERENCE, _PREDICTION, _RATIO) = range(5)


@dataclass(frozen=True)
class RatedAnswer:
    """One answer and what the judge gave for it.

    Attributes:
        id: of its question.
        pairs: (score of the reference, score of the answer) for each order in which the judge read them, the published
            order first; empty where a reply is missing or holds no two scores.
        failed: whether the model gave no answer, so that the judge was not asked.
        groups: group fields of the question, such as question_type and modality.
        cluster: what the row is drawn with in intervals, its image.
    """

    id: str
    pairs: tuple[tuple[float, float], ...] = ()
    failed: bool = False
    groups: Mapping[str, str] = field(default_factory=dict)
    cluster: str = ""

    @property
    def counted(self) -> bool:
        """Whether it is in the means: rated, or without an answer."""
        return self.failed or bool(self.pairs)


def relative_scores(rows: Sequence[RatedAnswer]) -> dict[str, Any]:
    """Score a group of rated answers.

    ``mean_of_ratios`` is LLaVA-Med's relative score, the mean over rows of answer score / reference score
    (llava/eval/summarize_gpt_review.py of v1.5); ``ratio_of_means`` is the mean answer score over the mean reference
    score (summarize_gpt_review.py of v1.0.0). Published tables print them times 100.

    An answer that is missing counts as a score of 0 in both. A row without two scores is in neither, as nothing is
    known of the answer; ``unrated`` says how many there are.

    Args:
        rows: rows of one group. Of several orders the scores of a row are averaged, and for ``mean_of_ratios`` its
            ratios.

    Returns:
        ``n``, ``rated``, ``failures`` (missing answers), ``unrated``, ``scores`` and ``intervals``: reference_score,
        prediction_score (1 to 10) and the two relative scores. ``scores`` is empty where no row is rated, and
        ``intervals`` where all rows are of one image.
    """
    kept = [row for row in rows if row.counted]
    block: dict[str, Any] = {
        "n": len(rows),
        "rated": sum(bool(row.pairs) for row in rows),
        "failures": sum(row.failed for row in rows),
        "unrated": len(rows) - len(kept),
        "scores": {},
        "intervals": {},
    }
    if not block["rated"]:
        return block
    columns = sums_of_clusters(np.array([_numbers(row) for row in kept]), [row.cluster or row.id for row in kept])
    for name, statistic in _STATISTICS.items():
        interval = bootstrap_of_sums(columns, statistic)
        block["scores"][name] = interval.value
        if interval.ends is not None:
            block["intervals"][name] = interval.as_dict()
    return block


def group_scores(rows: Sequence[RatedAnswer], fields: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Score each group of each field.

    Args:
        rows: all rows.
        fields: group fields; one that no row has is left out.

    Returns:
        Field -> for each of its values, in the order of their names, the name under the field's and what
        :func:`relative_scores` returns.
    """
    tables = {}
    for group_field in fields:
        if not any(group_field in row.groups for row in rows):
            continue
        names = sorted({row.groups.get(group_field, NO_GROUP) for row in rows})
        members = {name: [row for row in rows if row.groups.get(group_field, NO_GROUP) == name] for name in names}
        tables[group_field] = [{group_field: name, **relative_scores(own)} for name, own in members.items()]
    return tables


def position_effect(rows: Sequence[RatedAnswer]) -> dict[str, Any] | None:
    """Say how much the place of an answer changes its score, where each row was rated in both orders.

    Args:
        rows: all rows.

    Returns:
        ``n``; ``second_minus_first``: mean of a text's score as Assistant 2 minus its score as Assistant 1, with its
        interval; ``preference_changes``: share of rows in which the better answer changes with the order. None where
        no row has both orders.
    """
    both = [row for row in rows if len(row.pairs) == 2]
    if not both:
        return None
    # Published order: the answer is second; swapped: the reference is.
    moves = [
        ((published[1] - swapped[1]) + (swapped[0] - published[0])) / 2
        for published, swapped in (row.pairs for row in both)
    ]
    changes = [
        float(np.sign(published[1] - published[0]) != np.sign(swapped[1] - swapped[0]))
        for published, swapped in (row.pairs for row in both)
    ]
    interval = bootstrap_interval(moves, kind=NUMBER, clusters=[row.cluster or row.id for row in both])
    return {
        "n": len(both),
        "second_minus_first": {"value": interval.value, **interval.as_dict()},
        "preference_changes": sum(changes) / len(changes),
    }


def _numbers(row: RatedAnswer) -> list[float]:
    if not row.pairs:
        return [0.0, 1.0, 0.0, 0.0, 0.0]
    references, predictions = zip(*row.pairs, strict=True)
    ratios = [prediction / reference for reference, prediction in row.pairs]
    count = len(row.pairs)
    return [1.0, 0.0, sum(references) / count, sum(predictions) / count, sum(ratios) / count]


def _mean(column: int, rows: Sequence[int]) -> Callable[[np.ndarray], np.ndarray]:
    def mean(sums: np.ndarray) -> np.ndarray:  # [b, 5] -> [b]
        below = sums[:, list(rows)].sum(axis=1)
        return np.divide(sums[:, column], below, out=np.zeros(len(sums)), where=below > 0)

    return mean


def _ratio_of_means(sums: np.ndarray) -> np.ndarray:
    reference, prediction = (_STATISTICS[name](sums) for name in ("reference_score", "prediction_score"))
    # A draw of missing answers only has no reference score; its answers are worth 0.
    return np.divide(prediction, reference, out=np.zeros(len(sums)), where=reference > 0)


_STATISTICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "reference_score": _mean(_REFERENCE, (_JUDGED,)),
    "prediction_score": _mean(_PREDICTION, (_JUDGED, _FAILED)),
    MEAN_OF_RATIOS: _mean(_RATIO, (_JUDGED, _FAILED)),
    RATIO_OF_MEANS: _ratio_of_means,
}
