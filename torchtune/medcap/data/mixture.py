"""Compute the order of an epoch that mixes several sources by their weights, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class MixedOrder:
    """The samples of a mixed epoch, in the order of training.

    Attributes:
        sources: ``[n]`` int64, index of each sample's source.
        rows: ``[n]`` int64, index of the row in that source.
        passes: ``[n]`` int64, number of the pass over that source, counted from 0 within the epoch.
    """

    sources: np.ndarray
    rows: np.ndarray
    passes: np.ndarray


def divide_epoch(weights: Sequence[Fraction], total: int) -> list[int]:
    """Divide the samples of an epoch by weights.

    This is the largest-remainder method: every source gets its share rounded down, and the sources with the largest
    remainders get one more. Of equal remainders the earlier source wins.

    Args:
        weights: weights above 0; they need not add up to 1.
        total: number of samples in the epoch.

    Returns:
        Number of samples of each source; they add up to ``total``, and each is less than 1 from its exact share.
    """
    whole = sum(weights, Fraction(0))
    exact = [weight / whole * total for weight in weights]
    counts = [int(share) for share in exact]
    by_rest = sorted(range(len(weights)), key=lambda source: counts[source] - exact[source])
    for source in by_rest[: total - sum(counts)]:
        counts[source] += 1
    return counts


def mix(
    sizes: Sequence[int],
    counts: Sequence[int],
    taken: Sequence[int],
    read: Callable[[int, range], np.ndarray],
    generator: np.random.Generator | None,
) -> MixedOrder:
    """Mix the samples of an epoch.

    A source is read in passes, which continue from epoch to epoch: each pass shows every row once. Sample j of the c
    samples of a source is put at the fraction (j + u) / c of the epoch, with u between 0 and 1. So every part of the
    epoch holds the sources in about their shares.

    Args:
        sizes: number of rows of each source.
        counts: number of samples of each source in this epoch.
        taken: number of samples of each source that the earlier epochs have taken.
        read: returns the rows of some passes, ``[passes * size]`` int64, from the source's index and the passes'
            numbers, counted from 0 over all epochs.
        generator: draws u for each sample; with None every u is 1/2.

    Returns:
        The order of the epoch.
    """
    rows, passes, fractions = [], [], []
    for source, (size, count, first) in enumerate(zip(sizes, counts, taken, strict=True)):
        numbers = range(first // size, -(-(first + count) // size))
        start = first - numbers.start * size
        rows.append(read(source, numbers)[start : start + count])
        passes.append((start + np.arange(count)) // size)
        within = 0.5 if generator is None else generator.random(count)
        fractions.append((np.arange(count) + within) / count)
    mixed = np.argsort(np.concatenate(fractions), kind="stable")
    sources = np.repeat(np.arange(len(counts)), counts)
    return MixedOrder(sources[mixed], np.concatenate(rows)[mixed], np.concatenate(passes)[mixed])
