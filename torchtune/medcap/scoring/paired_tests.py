"""Tests of paired differences, and the correction for many of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DRAWS = 10_000
_BLOCK = 1 << 20  # drawn values held at once


def mcnemar(first_only: int, second_only: int) -> float:
    """Exact two-sided p-value of a difference in right answers.

    Only the rows on which the two disagree count: if neither is better, each of them falls to either side with
    probability 1/2 (McNemar, 1947, Psychometrika 12, 153-157; the exact binomial form).

    Args:
        first_only: rows that the first has right and the second wrong.
        second_only: rows that the first has wrong and the second right.

    Returns:
        0..1; 1 where they never disagree.
    """
    from scipy.stats import binomtest  # here, because it is slow to import

    total = first_only + second_only
    return float(binomtest(first_only, total).pvalue) if total else 1.0


def sign_flip_p(differences: Sequence[float] | np.ndarray, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference: if neither is better, every row's sign could as well be the other.

    Args:
        differences: [n] second minus first, one number a row, finite.
        draws: random choices of all signs.
        seed: seed of the random numbers: the same arguments give the same value.

    Returns:
        ``(1 + choices at least as far from 0) / (1 + draws)``, which is never 0 (Phipson and Smyth, 2010, Stat. Appl.
        Genet. Mol. Biol. 9, article 39); 1 where no row differs.

    Raises:
        ValueError: if a difference is not finite.
    """
    values = np.asarray(differences, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a difference is not finite")
    sizes, counts = np.unique(np.abs(values[values != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    generator = np.random.default_rng(seed)
    # Rounding in another order of summation must not turn "as far" into "less far".
    observed = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    block = max(1, _BLOCK // len(sizes))
    as_far = 0
    for start in range(0, draws, block):
        size = (min(block, draws - start), len(sizes))
        # Among k rows of one size the number of positive signs is binomial: the same distribution without n draws.
        signs = 2 * generator.binomial(counts, 0.5, size=size) - counts  # [b, distinct]
        as_far += int((np.abs(signs @ sizes) >= observed).sum())
    return (1 + as_far) / (1 + draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values of several tests, so that the chance of any false finding stays below the level.

    Holm, 1979, Scandinavian Journal of Statistics 6, 65-70: the i-th smallest of m, from 0, is multiplied by m - i;
    none may be below one before it.

    Args:
        p_values: 0..1.

    Returns:
        The corrected ones in the same order, at most 1.

    Example:
        >>> holm([0.01, 0.04, 0.03])
        [0.03, 0.06, 0.06]
    """
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected
