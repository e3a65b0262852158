"""Bootstrap intervals in flat memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 10_000
LEVEL = 0.95
_BLOCK = 1 << 20  # drawn values held at once
_FEW = 64


@dataclass(frozen=True)
class Interval:
    """A percentile bootstrap interval.

    Attributes:
        value: the statistic of the data itself.
        low: lower end.
        high: upper end.
        level: share of the draws between the ends.
        draws: number of bootstrap samples.
    """

    value: float
    low: float
    high: float
    level: float
    draws: int

    def as_dict(self) -> dict[str, float | int]:
        """The interval for a JSON file."""
        return {"low": self.low, "high": self.high, "level": self.level, "draws": self.draws}


def bootstrap_interval(
    values: Sequence[float] | np.ndarray, draws: int = DRAWS, seed: int = 0, level: float = LEVEL
) -> Interval:
    """Interval of a mean (percentile bootstrap; Efron and Tibshirani, 1993, chapter 13).

    Args:
        values: [n] one number a row, finite.
        draws: number of bootstrap samples.
        seed: of the random numbers: the same arguments give the same interval.
        level: share of the draws that the interval holds.

    Returns:
        The mean and its interval.

    Raises:
        ValueError: if there are no values or one is not finite.
    """
    rows = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    return bootstrap_of_sums(rows, lambda sums: sums[:, 0] / len(rows), draws, seed, level)


def bootstrap_of_sums(
    rows: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Interval of a statistic that depends on the data through sums over rows, such as a corpus BLEU.

    Args:
        rows: [n, f] float, finite.
        statistic: maps sums [b, f] of n drawn rows to values [b].
        draws: number of bootstrap samples.
        seed: of the random numbers.
        level: share of the draws that the interval holds.

    Returns:
        The statistic and its interval.

    Raises:
        ValueError: if there are no rows or a number is not finite.
    """
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError("no values to draw from")
    if not np.isfinite(rows).all():
        raise ValueError("a value is not finite")
    generator = np.random.default_rng(seed)
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    few = len(distinct) <= _FEW
    block = max(1, _BLOCK // (len(distinct) if few else rows.size))
    drawn = []
    for start in range(0, draws, block):
        size = min(block, draws - start)
        if few:
            # How often each distinct row is drawn is multinomial: the same distribution without n draws.
            sums = generator.multinomial(len(rows), counts / len(rows), size=size) @ distinct  # [b, f]
        else:
            sums = rows[generator.integers(0, len(rows), size=(size, len(rows)))].sum(axis=1)  # [b, f]
        drawn.append(statistic(sums))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.concatenate(drawn), [tail, 1.0 - tail])
    return Interval(float(statistic(rows.sum(axis=0, keepdims=True))[0]), float(low), float(high), level, draws)
