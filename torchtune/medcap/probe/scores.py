"""What a classifier scores on test images, and whether one is better than another or it is chance."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from medcap.scoring.comparison import MCNEMAR, SIGN_FLIP, verdict
from medcap.scoring.paired_tests import mcnemar, sign_flip_p
from medcap.scoring.statistics import (
    DIFFERENCE,
    SHARE,
    Interval,
    bootstrap_group_mean,
    bootstrap_interval,
    bootstrap_of_weights,
    rows_of_means,
    sums_of_clusters,
    with_width,
)

_CELLS = 1 << 22  # drawn images held at once


@dataclass(frozen=True)
class Answers:
    """A classifier's answers to test images.

    Attributes:
        classes: ``[c]`` labels that it knows.
        scores: ``[n, c]`` log-probabilities.
        labels: ``[n]`` right answers.
        damaged: ``[n]`` bool: images that could not be read.
        groups: ``[n]`` rows of one group are drawn together.
    """

    classes: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    damaged: np.ndarray
    groups: Sequence[Hashable]

    @property
    def predictions(self) -> list[str | None]:
        """The label with the highest score; None for an image that could not be read."""
        chosen = self.classes[self.scores.argmax(axis=1)]
        return [None if broken else str(label) for label, broken in zip(chosen, self.damaged, strict=True)]

    @property
    def right(self) -> np.ndarray:
        """``[n]`` bool; an image that could not be read is wrong."""
        return (self.classes[self.scores.argmax(axis=1)] == self.labels) & ~self.damaged


def accuracy(right: np.ndarray, groups: Sequence[Hashable], kind: str = SHARE) -> Interval:
    """Share of right answers.

    Args:
        right: ``[n]`` numbers, 1 for a right answer; or differences of these.
        groups: ``[n]`` rows of one group are drawn together.
        kind: ``SHARE``, or ``DIFFERENCE`` for differences.

    Returns:
        The share and its interval: of the bootstrap, or Wilson's over the groups where all rows are alike.
    """
    return bootstrap_interval(right.astype(float), kind=kind, clusters=groups)


def balanced_accuracy(right: np.ndarray, labels: np.ndarray, groups: Sequence[Hashable]) -> Interval:
    """Mean over the classes of the share of their images that are answered correctly.

    Args:
        right: ``[n]`` numbers, as in :func:`accuracy`.
        labels: ``[n]`` right answers.
        groups: ``[n]`` rows of one group are drawn together.

    Returns:
        The mean and its interval, as in :func:`accuracy`; a draw without any image of a class takes the mean of the
        others.
    """
    return bootstrap_group_mean(right.astype(float), labels.tolist(), clusters=groups)


def macro_auroc(answers: Answers) -> Interval | None:
    """Mean over the classes of the area under the ROC curve, each class against all others.

    An image that could not be read counts as the worst answer: below all others for its own class, above them for
    every other class. Classes that the classifier does not know, or that all or none of the images have, have no curve.

    Args:
        answers: answers of the classifier.

    Returns:
        The mean and its interval; None where no class has a curve. A draw in which a class has no curve takes the mean
        of the others, and one in which no class has a curve is left out of the interval. Where every image is on the
        right side of every other one, the interval is Wilson's with as many rows as the smaller side has groups.
    """
    curves = []
    for column, label in enumerate(answers.classes):
        positive = answers.labels == label
        if positive.any() and not positive.all():
            worst = np.where(positive, -np.inf, np.inf)
            curves.append((np.where(answers.damaged, worst, answers.scores[:, column]), positive))
    if not curves:
        return None
    two = len(curves) == 2 and len(np.unique(answers.labels)) == 2
    prepared = [_Curve(scores, positive) for scores, positive in (curves[:1] if two else curves)]
    numbers: dict[Hashable, int] = {}
    codes = np.array([numbers.setdefault(group, len(numbers)) for group in answers.groups])

    def mean(counts: np.ndarray) -> np.ndarray:  # [b, groups] -> [b]
        block = max(1, _CELLS // len(codes))
        parts = [counts[start : start + block, codes] for start in range(0, len(counts), block)]
        areas = np.concatenate([np.stack([curve.areas(part) for curve in prepared]) for part in parts], axis=1)
        there = np.isfinite(areas)
        count = there.sum(axis=0)
        total = np.where(there, areas, 0.0).sum(axis=0)
        return np.divide(total, count, out=np.full(len(count), np.nan), where=count > 0)

    sides = [min(len(set(codes[curve[1]])), len(set(codes[~curve[1]]))) for curve in (curves[:1] if two else curves)]
    # The curves share their images: as many rows as the curves have on average (the harmonic mean), not in all.
    return with_width(bootstrap_of_weights(len(numbers), mean), rows_of_means(sides) / len(sides))


@dataclass(frozen=True)
class Difference:
    """One classifier's share of right answers minus another's on the same images.

    Attributes:
        interval: interval of the difference; paired bootstrap, or Wilson's where all images are alike.
        first_only: images that only the first has right.
        second_only: images that only the second has right.
        p: two-sided.
        test: ``mcnemar_exact``, or ``sign_flip`` over groups where these hold several images.
        words: the result in one sentence.
    """

    interval: Interval
    first_only: int
    second_only: int
    p: float
    test: str
    words: str


def difference(first: np.ndarray, second: np.ndarray, groups: Sequence[Hashable], names: tuple[str, str]) -> Difference:
    """Compare two classifiers image by image.

    Args:
        first: ``[n]`` bool.
        second: ``[n]`` bool.
        groups: ``[n]`` rows of one group are drawn together.
        names: what the two are.

    Returns:
        Second minus first.
    """
    change = second.astype(float) - first.astype(float)
    interval = accuracy(change, groups, DIFFERENCE)
    first_only, second_only = int((first & ~second).sum()), int((second & ~first).sum())
    grouped = len(set(groups)) < len(groups)
    p = sign_flip_p(sums_of_clusters(change[:, None], groups)[:, 0]) if grouped else mcnemar(first_only, second_only)
    words = verdict(interval, p, names=names)
    return Difference(interval, first_only, second_only, p, SIGN_FLIP if grouped else MCNEMAR, words)


class _Curve:
    """A class's images in the order of their scores."""

    def __init__(self, scores: np.ndarray, positive: np.ndarray) -> None:
        self._order = np.argsort(scores, kind="stable")
        ordered = scores[self._order]
        self._starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))  # of equal scores
        self._positive = positive[self._order]

    def areas(self, counts: np.ndarray) -> np.ndarray:
        """Area of each draw: the share of pairs in the right order, equal scores as half (Mann-Whitney).

        Args:
            counts: ``[b, n]`` how often each image is drawn.

        Returns:
            ``[b]``; NaN where a draw has only one kind.
        """
        counts = counts[:, self._order]
        up = np.add.reduceat(counts * self._positive, self._starts, axis=1).astype(float)  # [b, distinct]
        down = np.add.reduceat(counts * ~self._positive, self._starts, axis=1).astype(float)
        below = np.cumsum(down, axis=1) - down
        pairs = up.sum(axis=1) * down.sum(axis=1)
        won = (up * (below + 0.5 * down)).sum(axis=1)
        return np.divide(won, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
