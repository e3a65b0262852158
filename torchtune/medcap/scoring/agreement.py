"""How far two judges, or two models, say the same of the same rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medcap.errors import UserError
from medcap.scoring.statistics import NUMBER, Interval, bootstrap_interval, bootstrap_of_sums


@dataclass(frozen=True)
class Agreement:
    """Two sides' labels of the same rows.

    Attributes:
        labels: every label of either side, in order.
        counts: [labels, labels] rows by the first side's label and the second's.
        same: share of rows with one label, with its interval.
        kappa: Cohen's kappa with its interval; None where all rows have one label on both sides.
    """

    labels: list[str]
    counts: np.ndarray
    same: Interval
    kappa: Interval | None

    @property
    def n(self) -> int:
        """Number of rows."""
        return int(self.counts.sum())

    def as_dict(self) -> dict[str, Any]:
        """Return the agreement for a JSON file."""
        return {
            "n": self.n,
            "labels": self.labels,
            "counts": self.counts.tolist(),
            "same": {"value": self.same.value, **self.same.as_dict()},
            "kappa": None if self.kappa is None else {"value": self.kappa.value, **self.kappa.as_dict()},
        }


def agreement(first: Sequence[str], second: Sequence[str]) -> Agreement:
    """Compare two sides' labels, by scikit-learn's confusion matrix and Cohen's kappa.

    Args:
        first: [n] labels of one side, such as a judge's verdicts.
        second: [n] the other side's, of the same rows.

    Returns:
        Counts, share of equal labels, and kappa (Cohen, 1960, Educ. Psychol. Meas. 20, 37-46).

    Raises:
        UserError: if scikit-learn is not installed.
        ValueError: if there are no rows, or the lengths differ.
    """
    metrics = sklearn_metrics()
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} labels")
    labels = sorted({*first, *second})
    # scikit-learn warns of a single label.
    counts = metrics.confusion_matrix(first, second, labels=labels) if len(labels) > 1 else np.array([[len(first)]])
    same = bootstrap_interval([float(one == other) for one, other in zip(first, second, strict=True)])
    if len(labels) == 1:
        return Agreement(labels, counts, same, None)
    place = {label: index for index, label in enumerate(labels)}
    cells = [place[one] * len(labels) + place[other] for one, other in zip(first, second, strict=True)]
    drawn = bootstrap_of_sums(np.eye(len(labels) ** 2)[cells], _kappas)
    value = float(metrics.cohen_kappa_score(first, second, labels=labels))
    return Agreement(labels, counts, same, Interval(value, drawn.low, drawn.high, drawn.level, drawn.draws))


def score_agreement(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Compare two judges' scores of the same answers.

    Args:
        first: [n] scores of one judge, 0 to 10.
        second: [n] the other's.

    Returns:
        ``n``; ``difference``: mean of second minus first with its interval; ``spearman``: rank correlation (scipy),
        None where one side gives all rows one score; ``weighted_kappa``: Cohen's kappa of the rounded scores with
        quadratic weights (scikit-learn), None likewise.

    Raises:
        UserError: if scikit-learn is not installed.
        ValueError: if there are no rows, or the lengths differ.
    """
    metrics = sklearn_metrics()
    if not first or len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} scores")
    from scipy.stats import spearmanr

    difference = bootstrap_interval(np.subtract(second, first), kind=NUMBER)
    varied = len(set(first)) > 1 and len(set(second)) > 1
    rounded = [np.rint(scores).astype(int) for scores in (first, second)]
    varied_rounded = len({*rounded[0], *rounded[1]}) > 1
    return {
        "n": len(first),
        "difference": {"value": difference.value, **difference.as_dict()},
        "spearman": float(spearmanr(first, second).statistic) if varied else None,
        "weighted_kappa": float(metrics.cohen_kappa_score(*rounded, weights="quadratic")) if varied_rounded else None,
    }


def sklearn_metrics() -> Any:
    """Return ``sklearn.metrics``.

    Raises:
        UserError: if scikit-learn is not installed.
    """
    try:
        import sklearn.metrics
    except ImportError as error:
        raise UserError("agreement and confusion need scikit-learn: pip install medcap[tables]") from error
    return sklearn.metrics


def _kappas(sums: np.ndarray) -> np.ndarray:
    """Cohen's kappa of each draw: sums [b, k * k] -> [b]; 1 where a draw holds one label only."""
    size = round(sums.shape[1] ** 0.5)
    table = sums.reshape(-1, size, size) / sums.sum(axis=1)[:, None, None]  # [b, k, k]
    observed = np.trace(table, axis1=1, axis2=2)
    expected = (table.sum(axis=2) * table.sum(axis=1)).sum(axis=1)
    return np.divide(observed - expected, 1 - expected, out=np.ones(len(sums)), where=expected < 1 - 1e-12)
