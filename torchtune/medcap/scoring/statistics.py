"""Intervals: the bootstrap in flat memory, and Wilson's where no draw can differ from the data."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

DRAWS = 10_000
FEW_DRAWS = 2_000
LEVEL = 0.95
# The kind of values in a mean: shares of 1, differences of such shares, or numbers without bounds (CIDEr).
SHARE, DIFFERENCE, NUMBER = "share", "difference", "number"
_BLOCK = 1 << 18  # drawn values held at once: they fit the cache of a processor core
_FEW = 64
_ROWS_A_KIND = 32
_NO_WIDTH = 1e-12


@dataclass(frozen=True)
class Interval:
    """A percentile bootstrap interval, or Wilson's.

    Attributes:
        value: the statistic of the data itself.
        low: lower end; None where there is no interval, because only one row or cluster can be drawn.
        high: upper end; None likewise.
        level: share of the draws between the ends.
        draws: number of bootstrap samples; 0 for an interval of Wilson's (see :func:`with_width`).
    """

    value: float
    low: float | None
    high: float | None
    level: float
    draws: int

    @property
    def ends(self) -> tuple[float, float] | None:
        """The lower and the upper end; None where there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def as_dict(self) -> dict[str, float | int | None]:
        """Return the interval for a JSON file."""
        return {"low": self.low, "high": self.high, "level": self.level, "draws": self.draws}


def with_width(interval: Interval, rows: float, kind: str = SHARE) -> Interval:
    """Widen a bootstrap interval that has no width at the end of its range, as far as its rows allow.

    Where every row is right, every draw is 1: the bootstrap then says that 1 of 1 is certain. Wilson's score interval
    (Wilson, 1927, J. Am. Stat. Assoc. 22, 209-212) says 0.207 to 1, and 0 to 0.390 of 0 of 6. A difference is read as
    the share of rows that differ, which lies on either side of 0 where no row does.

    Args:
        interval: interval of the bootstrap.
        rows: how many rows, or groups of rows that were drawn together, it is made of; for a mean of several means, how
            many rows of one mean would tell as much.
        kind: ``SHARE`` or ``DIFFERENCE``; an interval of a ``NUMBER`` is not changed.

    Returns:
        Wilson's interval, with 0 draws; any other interval unchanged, and none stays none.

    Example:
        >>> with_width(Interval(1.0, 1.0, 1.0, 0.95, 10_000), rows=1)
        Interval(value=1.0, low=0.2065..., high=1.0, level=0.95, draws=0)
    """
    low, high = interval.ends or (interval.value, interval.value)
    # Sentence BLEU without a common pair of words is 1e-154 or less, not 0.
    if kind == NUMBER or high - low > _NO_WIDTH or not _at_an_end(interval.value):
        return interval
    square = NormalDist().inv_cdf(0.5 + interval.level / 2) ** 2
    width = square / (rows + square)
    least, most = (-1.0, 1.0) if kind == DIFFERENCE else (0.0, 1.0)
    low, high = max(least, interval.value - width), min(most, interval.value + width)
    return replace(interval, low=low, high=high, draws=0)


def _at_an_end(value: float) -> bool:
    return min(abs(value), abs(1.0 - abs(value))) <= _NO_WIDTH


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    kind: str = SHARE,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Interval of a mean (percentile bootstrap; Efron and Tibshirani, 1993, chapter 13).

    Args:
        values: [n] one number a row, finite.
        draws: number of bootstrap samples.
        seed: seed of the random numbers: the same arguments give the same interval.
        level: share of the draws that the interval holds.
        kind: what the values are; see :func:`with_width`.
        clusters: [n] the cluster of each row, such as its patient: rows of one cluster are drawn together (Davison and
            Hinkley, 1997, section 3.8). None draws single rows.

    Returns:
        The mean and its interval; without ends for one row or cluster, unless it is Wilson's.

    Raises:
        ValueError: if there are no values, one is not finite, or the lengths differ.
    """
    rows = np.asarray(values, dtype=np.float64).reshape(-1, 1)
    if clusters is not None:
        return bootstrap_of_ratios(rows[:, 0], np.ones(len(rows)), clusters, None, draws, seed, level, kind)
    interval = bootstrap_of_sums(rows, lambda sums: sums[:, 0] / len(rows), draws, seed, level)
    return with_width(interval, len(rows), kind)


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
        seed: seed of the random numbers.
        level: share of the draws that the interval holds.

    Returns:
        The statistic and its interval.

    Raises:
        ValueError: if there are no rows or a number is not finite.
    """
    rows = _checked(rows)
    distinct, repeats = np.unique(rows, axis=0, return_counts=True)
    kinds, repeats = (distinct, repeats) if _few(len(distinct), len(rows)) else (rows, None)
    drawn = [statistic(counts @ kinds) for counts in _resamples(len(rows), repeats, draws, seed)]
    value = float(statistic(rows.sum(axis=0, keepdims=True))[0])
    return _interval(value, np.concatenate(drawn), level, len(rows))


def bootstrap_of_weights(
    rows: int,
    statistic: Callable[[np.ndarray], np.ndarray],
    draws: int = FEW_DRAWS,
    seed: int = 0,
    level: float = LEVEL,
) -> Interval:
    """Interval of any statistic of rows that may count more than once, such as an area under a ROC curve.

    Args:
        rows: how many there are.
        statistic: maps how often each row is drawn ``[b, rows]`` to values ``[b]``; NaN for a draw in which it is not
            defined, which is then left out of the interval.
        draws: number of bootstrap samples; such a statistic takes time in proportion to rows and draws.
        seed: seed of the random numbers.
        level: share of the draws that the interval holds.

    Returns:
        The statistic of every row once, and its interval.

    Raises:
        ValueError: if there are no rows.
    """
    if rows < 1:
        raise ValueError("no values to draw from")
    drawn = [statistic(counts) for counts in _resamples(rows, None, draws, seed)]
    values = np.concatenate(drawn)
    return _interval(float(statistic(np.ones((1, rows), dtype=np.int64))[0]), values[~np.isnan(values)], level, rows)


def bootstrap_group_mean(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable],
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    kind: str = SHARE,
    clusters: Sequence[Hashable] | None = None,
) -> Interval:
    """Interval of the unweighted mean of the groups' means (a macro average).

    Rows are drawn from all rows, whatever their group, so that the groups' sizes vary as they would in another sample
    of the data. A draw that leaves a group empty takes the mean of the others.

    Args:
        values: [n] one number a row, finite.
        groups: [n] the group of each row.
        draws: number of bootstrap samples.
        seed: seed of the random numbers.
        level: share of the draws that the interval holds.
        kind: what the values are; see :func:`with_width`.
        clusters: [n] rows of one cluster are drawn together; None draws single rows.

    Returns:
        The mean of the groups' means and its interval.

    Raises:
        ValueError: if there are no values, one is not finite, or the lengths differ.
    """
    column = _checked(np.asarray(values, dtype=np.float64).reshape(-1, 1))[:, 0]
    if len(column) != len(groups):
        raise ValueError(f"{len(column)} values but {len(groups)} groups")
    if clusters is not None:
        return bootstrap_of_ratios(column, np.ones(len(column)), clusters, groups, draws, seed, level, kind)
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(group, len(numbers)) for group in groups], dtype=np.float64)
    rows = np.stack([codes, column], axis=1)  # [n, 2]
    kinds, repeats = np.unique(rows, axis=0, return_counts=True)  # sorted by group
    if not _few(len(kinds), len(rows)):
        kinds, repeats = rows[np.argsort(codes, kind="stable")], None
    starts = np.searchsorted(kinds[:, 0], np.arange(len(numbers)))

    def mean_of_means(counts: np.ndarray) -> np.ndarray:  # [b, k] -> [b]
        sizes = np.add.reduceat(counts, starts, axis=1)  # [b, g]
        sums = np.add.reduceat(counts * kinds[:, 1], starts, axis=1)  # [b, g]
        return (sums / np.maximum(sizes, 1)).sum(axis=1) / (sizes > 0).sum(axis=1)

    own = np.ones((1, len(kinds)), dtype=np.int64) if repeats is None else repeats[None]
    drawn = [mean_of_means(counts) for counts in _resamples(len(rows), repeats, draws, seed)]
    interval = _interval(float(mean_of_means(own)[0]), np.concatenate(drawn), level, len(rows))
    return with_width(interval, rows_of_means(np.unique(codes, return_counts=True)[1]), kind)


def bootstrap_of_ratios(
    numerators: Sequence[float] | np.ndarray,
    denominators: Sequence[float] | np.ndarray,
    clusters: Sequence[Hashable],
    groups: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = LEVEL,
    kind: str = SHARE,
) -> Interval:
    """Interval of a ratio of sums, or of the unweighted mean of the groups' ratios, with rows drawn by cluster.

    Args:
        numerators: [n] one number a row, finite.
        denominators: [n] likewise, not negative; each group has one above 0.
        clusters: [n] the cluster of each row, such as its patient or its image.
        groups: [n] the group of each row; None for one group.
        draws: number of bootstrap samples.
        seed: seed of the random numbers.
        level: share of the draws that the interval holds.
        kind: what the ratio is; see :func:`with_width`.

    Returns:
        The mean and its interval. A draw that leaves a group empty takes the mean of the others.

    Raises:
        ValueError: if there are no rows, a number is not finite, or the lengths differ.
    """
    columns = _checked(np.stack([np.asarray(numerators, float), np.asarray(denominators, float)], axis=1))  # [n, 2]
    if len(columns) != len(clusters) or (groups is not None and len(columns) != len(groups)):
        raise ValueError(f"{len(columns)} rows, {len(clusters)} clusters and {len(groups or clusters)} groups")
    numbers = {group: number for number, group in enumerate(sorted(set(groups or [None]), key=str))}
    own = np.eye(len(numbers))[[numbers[group] for group in groups or [None] * len(columns)]]  # [n, g]
    rows = sums_of_clusters(np.concatenate([own * columns[:, :1], own * columns[:, 1:]], axis=1), clusters)

    def mean(sums: np.ndarray) -> np.ndarray:  # [b, 2 g] -> [b]
        above, below = np.split(sums, 2, axis=1)
        there = below > 0
        ratios = np.divide(above, below, out=np.zeros_like(above), where=there)
        return ratios.sum(axis=1) / np.maximum(there.sum(axis=1), 1)

    # Clusters that have rows of several groups tell less than as many clusters of one group.
    told = min(len(rows), rows_of_means((rows[:, own.shape[1] :] > 0).sum(axis=0)))
    return with_width(bootstrap_of_sums(rows, mean, draws, seed, level), told, kind)


def sums_of_clusters(rows: np.ndarray, clusters: Sequence[Hashable]) -> np.ndarray:
    """Sum rows over their clusters.

    Args:
        rows: [n, f] float.
        clusters: [n] the cluster of each row.

    Returns:
        [c, f] sums, in the order in which the clusters first come.
    """
    numbers: dict[Hashable, int] = {}
    codes = [numbers.setdefault(cluster, len(numbers)) for cluster in clusters]
    sums = np.zeros((len(numbers), rows.shape[1]))
    np.add.at(sums, codes, rows)
    return sums


def rows_of_means(sizes: Sequence[int] | np.ndarray) -> float:
    """Return how many rows of one mean tell as much as the unweighted mean of several means.

    Args:
        sizes: [g] rows of each mean.

    Returns:
        ``g**2 / (1 / sizes).sum()``, at most their number: the variance of the mean of means as that of one mean.
    """
    sizes = np.asarray(sizes, dtype=np.float64)
    return float(len(sizes) ** 2 / (1.0 / sizes).sum())


def _checked(rows: np.ndarray) -> np.ndarray:
    rows = np.asarray(rows, dtype=np.float64)
    if rows.ndim != 2 or rows.size == 0:
        raise ValueError("no values to draw from")
    if not np.isfinite(rows).all():
        raise ValueError("a value is not finite")
    return rows


def _few(kinds: int, rows: int) -> bool:
    # A multinomial costs about as much for a kind of row as drawing 32 rows one by one does.
    return kinds <= max(_FEW, rows // _ROWS_A_KIND)


def _resamples(rows: int, repeats: np.ndarray | None, draws: int, seed: int) -> Iterator[np.ndarray]:
    """Draw rows with replacement.

    Args:
        rows: how many there are and how many a draw takes.
        repeats: [k] how many rows there are of each kind; None where every row is its own kind.
        draws: number of draws.
        seed: seed of the random numbers.

    Yields:
        [b, k] int64: how often each kind is drawn, in blocks of b draws.
    """
    generator = np.random.default_rng(seed)
    kinds = rows if repeats is None else len(repeats)
    block = max(1, _BLOCK // kinds)
    for start in range(0, draws, block):
        size = min(block, draws - start)
        if repeats is not None:
            # How often each kind is drawn is multinomial: the same distribution without as many draws as rows.
            yield generator.multinomial(rows, repeats / rows, size=size)
        else:
            drawn = generator.integers(0, rows, size=(size, rows))
            drawn += rows * np.arange(size)[:, None]
            yield np.bincount(drawn.ravel(), minlength=size * rows).reshape(size, rows)


def _interval(value: float, drawn: np.ndarray, level: float, units: int) -> Interval:
    if units < 2:
        # Each draw takes the same rows: the ends would be the value itself, as if it were certain.
        return Interval(value, None, None, level, len(drawn))
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(drawn, [tail, 1.0 - tail])
    return Interval(value, float(low), float(high), level, len(drawn))
