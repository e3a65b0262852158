"""The order of an epoch that is mixed from several sources by their weights, as arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np


@dataclass(frozen=True)
class MixedOrder:
    """The samples of a mixed epoch in order.

    Attributes:
        sources: ``[n]`` int64, the source of each.
        rows: ``[n]`` int64, the row of its source.
        passes: ``[n]`` int64, how often the epoch has begun a new pass over the source before it.
    """

    sources: np.ndarray
    rows: np.ndarray
    passes: np.ndarray


def divide_epoch(weights: Sequence[Fraction], total: int) -> list[int]:
    """Divide the samples of an epoch by weights.

    The method is that of the largest remainder: every source gets the whole part of its share, and those with the
    largest rest get one more, earlier ones first.

    Args:
        weights: above 0; their sum may be any.
        total: samples of the epoch.

    Returns:
        Samples of each source, their sum ``total``; each differs by less than 1 from its exact share.
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
    epoch: int,
    read: Callable[[int, range], np.ndarray],
    generator: np.random.Generator | None,
) -> MixedOrder:
    """Mix the samples of an epoch.

    The samples of a source are read in passes that go on from epoch to epoch: each pass shows every row once before a
    row comes again. Sample j of the c samples of a source is put at the fraction (j + u) / c of the epoch, u from 0 to
    1. So every stretch of the epoch holds the sources in about their shares.

    Args:
        sizes: rows of each source.
        counts: samples of each source in an epoch, the same in all epochs.
        epoch: epoch, counted from 0.
        read: source, and passes, counted from 0 over all epochs -> the rows of these passes, ``[passes * size]`` int64.
        generator: draws u; None takes 1/2.

    Returns:
        The epoch.
    """
    rows, passes, places = [], [], []
    for source, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        first = epoch * count  # samples that the earlier epochs have taken
        numbers = range(first // size, -(-(first + count) // size))
        start = first - numbers.start * size
        rows.append(read(source, numbers)[start : start + count])
        passes.append((start + np.arange(count)) // size)
        within = 0.5 if generator is None else generator.random(count)
        places.append((np.arange(count) + within) / count)
    mixed = np.argsort(np.concatenate(places), kind="stable")
    sources = np.repeat(np.arange(len(counts)), counts)
    return MixedOrder(sources[mixed], np.concatenate(rows)[mixed], np.concatenate(passes)[mixed])
