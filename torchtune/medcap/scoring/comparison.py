"""Two models' answers to the same questions: what differs, and whether chance could have done it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medcap.errors import UserError
from medcap.scoring.paired_tests import mcnemar, sign_flip_p
from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.multiple_choice import MultipleChoice
from medcap.scoring.question import Answer, Question
from medcap.scoring.relative_scores import RELATIVE
from medcap.scoring.replies.numbers import plain_number
from medcap.scoring.statistics import (
    DIFFERENCE,
    NUMBER,
    Interval,
    bootstrap_group_mean,
    bootstrap_interval,
    sums_of_clusters,
)

MCNEMAR = "mcnemar_exact"
SIGN_FLIP = "sign_flip"
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Pairs:
    """Answers to the same questions, in the same order.

    Attributes:
        first: value of A.
        second: value of B.
        only_first: ids that only A has, in its order.
        only_second: ids that only B has.
    """

    first: list[Answer]
    second: list[Answer]
    only_first: list[str]
    only_second: list[str]


def pair_answers(
    first: Sequence[Answer], second: Sequence[Answer], names: tuple[str, str] = ("the first", "the second")
) -> Pairs:
    """Bring the answers of two sides together by ``question_id``.

    Args:
        first: answers of A.
        second: answers of B.
        names: what messages call the two sides.

    Returns:
        The common rows in the order of ``first``, and the ids that only one side has. Where only one side has a row's
        ``answer_type``, it is that of both.

    Raises:
        UserError: if an id stands twice on one side, no row is common, or a common row's question, references or
            options differ between the sides.
    """
    left, right = _by_id(first, names[0]), _by_id(second, names[1])
    common = [key for key in left if key in right]
    if not common:
        raise UserError(
            f"{names[0]} and {names[1]} have no question_id in common (the first ones are"
            f" {next(iter(left), 'none')!r} and {next(iter(right), 'none')!r}): compare answers to the same benchmark"
        )
    for key in common:
        _check_same(left[key].question, right[key].question, names)
    return Pairs(
        [_with_type_of(left[key], right[key]) for key in common],
        [_with_type_of(right[key], left[key]) for key in common],
        [key for key in left if key not in right],
        [key for key in right if key not in left],
    )


def _by_id(answers: Sequence[Answer], name: str) -> dict[str, Answer]:
    known: dict[str, Answer] = {}
    for answer in answers:
        if answer.question.id in known:
            raise UserError(
                f"{name}: question_id {answer.question.id!r} stands there twice, so its rows cannot be paired:"
                " give each row an id of its own"
            )
        known[answer.question.id] = answer
    return known


def _check_same(first: Question, second: Question, names: tuple[str, str]) -> None:
    for label, here, there in (
        ("question", [first.text], [second.text]),
        ("reference", first.references, second.references),
        # A file of somebody else's answers may leave the options out.
        ("list of options", first.lettered or second.lettered, second.lettered or first.lettered),
        ("list of boxes", _boxes(first, second), _boxes(second, first)),
    ):
        if [plain_number(" ".join(text.split())) for text in here] != [
            plain_number(" ".join(text.split())) for text in there
        ]:
            raise UserError(
                f"question_id {first.id!r}: its {label} differs: {_short(here)} in {names[0]},"
                f" {_short(there)} in {names[1]}; compare answers to the same questions"
            )


def _boxes(question: Question, other: Question) -> list[str]:
    """Return the boxes that are asked for, or those of the other side where this one leaves them out."""
    boxes = other.boxes if question.boxes is None else question.boxes
    return [", ".join(f"{edge:.6g}" for edge in box.edges) for box in boxes or ()]


def _with_type_of(answer: Answer, other: Answer) -> Answer:
    """Return an answer whose file leaves the answer_type out, with that of the other file."""
    if answer.question.answer_type:
        return answer
    return replace(answer, question=replace(answer.question, answer_type=other.question.answer_type))


def _short(texts: Sequence[str]) -> str:
    text = " | ".join(" ".join(text.split()) for text in texts)
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


@dataclass(frozen=True)
class Side:
    """A protocol's result for the common rows of one side.

    Attributes:
        score: the protocol's headline.
        mean: of the compared rows' values: over rows, or over modalities where the headline is; the headline itself
            wherever that is such a mean.
        failures: common rows without an answer.
    """

    score: float
    mean: float
    failures: int


@dataclass(frozen=True)
class Comparison:
    """B against A.

    Attributes:
        protocol: its name.
        headline: name of the score.
        first: A.
        second: B.
        difference: mean (as in :class:`Side`) of B's value minus A's, with its interval (paired
            bootstrap; Wilson's where every row differs alike).
        n: compared rows: those in the headline's denominator.
        common: rows that both sides have.
        only_first: how many rows only A has.
        only_second: how many rows only B has.
        decided: compared rows that the protocol calls right or wrong on both sides.
        first_only: how many of these are right in A and wrong in B.
        second_only: wrong in A and right in B.
        p: two-sided p-value.
        test: ``MCNEMAR`` where every compared row is decided, else ``SIGN_FLIP``.
        share: whether the headline is a share of 1, so that differences are given in points.
        notices: what a reader must know.
    """

    protocol: str
    headline: str
    first: Side
    second: Side
    difference: Interval
    n: int
    common: int
    only_first: int
    only_second: int
    decided: int
    first_only: int
    second_only: int
    p: float
    test: str
    share: bool
    notices: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        return verdict(self.difference, self.p, in_points(self.headline, self.share))

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison for a JSON file."""
        return {
            "protocol": self.protocol,
            "score": self.headline,
            "a": vars(self.first).copy(),
            "b": vars(self.second).copy(),
            "difference": {"value": self.difference.value, **self.difference.as_dict()},
            "n": self.n,
            "common": self.common,
            "only_a": self.only_first,
            "only_b": self.only_second,
            "decided": self.decided,
            "a_right_b_wrong": self.first_only,
            "a_wrong_b_right": self.second_only,
            "p": self.p,
            "test": self.test,
            "verdict": self.verdict,
            "notices": list(self.notices),
        }


def compare(
    pairs: Pairs, protocol: Protocol, scores: tuple[ProtocolScores, ProtocolScores] | None = None
) -> Comparison:
    """Score both sides and compare them row by row.

    McNemar's exact test is used where the protocol calls every compared row right or wrong. Elsewhere there is no
    such count, and the p-value is that of randomly exchanged signs of the rows' differences. Where the protocol draws
    rows by patient or image, so does the difference, and the signs are those of each patient's or image's sum.

    Args:
        pairs: the common rows.
        protocol: scores each side's common rows by itself.
        scores: its scores of the two sides, where they are known already.

    Returns:
        The comparison.

    Raises:
        UserError: if the protocol cannot score a side, or no row is in the headline's denominator of both.
    """
    scores = scores or (protocol.score(pairs.first), protocol.score(pairs.second))
    kept = [
        index
        for index, (one, other) in enumerate(zip(scores[0].rows, scores[1].rows, strict=True))
        if one.get("value") is not None and other.get("value") is not None
    ]
    compared = [
        (pairs.first[index].question.groups.get("modality", ""), scores[0].rows[index], scores[1].rows[index])
        for index in kept
    ]
    if not compared:
        raise UserError(f"protocol {protocol.name}: no common row counts for {protocol.headline}: use another protocol")
    values = np.array([(one["value"], other["value"]) for _, one, other in compared], dtype=np.float64)  # [n, 2]
    verdicts = [
        (bool(one["correct"]), bool(other["correct"]))
        for _, one, other in compared
        if one.get("correct") is not None and other.get("correct") is not None
    ]
    first_only = sum(one and not other for one, other in verdicts)
    second_only = sum(other and not one for one, other in verdicts)
    differences = values[:, 1] - values[:, 0]
    clusters = [pairs.first[index].question.cluster for index in kept] if scores[0].clustered else None
    flipped = differences if clusters is None else sums_of_clusters(differences[:, None], clusters)[:, 0]
    every_row_decided = len(verdicts) == len(compared) and clusters is None
    if isinstance(protocol, MultipleChoice) and protocol.headline == protocol.over_modalities:
        modalities = [modality for modality, _, _ in compared]
        difference = bootstrap_group_mean(differences, modalities, kind=DIFFERENCE)
        means = [bootstrap_group_mean(values[:, position], modalities, draws=1).value for position in (0, 1)]
    else:
        kind = DIFFERENCE if protocol.share else NUMBER
        difference = bootstrap_interval(differences, kind=kind, clusters=clusters)
        means = [float(mean) for mean in values.mean(axis=0)]
    sides = tuple(
        Side(float(score.scores[protocol.headline]), mean, sum(answer.failed for answer in answers))
        for score, mean, answers in zip(scores, means, (pairs.first, pairs.second), strict=True)
    )
    return Comparison(
        protocol=protocol.name,
        headline=protocol.headline,
        first=sides[0],
        second=sides[1],
        difference=difference,
        n=len(compared),
        common=len(pairs.first),
        only_first=len(pairs.only_first),
        only_second=len(pairs.only_second),
        decided=len(verdicts),
        first_only=first_only,
        second_only=second_only,
        p=mcnemar(first_only, second_only) if every_row_decided else sign_flip_p(flipped),
        test=MCNEMAR if every_row_decided else SIGN_FLIP,
        share=protocol.share,
        notices=tuple(_notices(pairs, scores, sides, len(compared), protocol.headline)),
    )


def _notices(
    pairs: Pairs, scores: tuple[ProtocolScores, ...], sides: tuple[Side, ...], compared: int, headline: str
) -> list[str]:
    lines = []
    for name, only in (("A", pairs.only_first), ("B", pairs.only_second)):
        if only:
            lines.append(f"rows only in {name}, not compared: {len(only):,} (the first: {only[0]})")
    if compared < len(pairs.first):
        lines.append(
            f"common rows that do not count for {headline}: {len(pairs.first) - compared:,} of {len(pairs.first):,}"
        )
    differing = [
        (one.question, other.question)
        for one, other in zip(pairs.first, pairs.second, strict=True)
        if one.question.answer_type.strip().upper() != other.question.answer_type.strip().upper()
    ]
    if differing:
        one, other = differing[0]
        lines.append(
            f"common rows whose answer_type differs, each side scored by its own: {len(differing):,} (the first:"
            f" {one.id}, {one.answer_type} in A, {other.answer_type} in B)"
        )
    if any(abs(side.score - side.mean) > 1e-9 for side in sides):
        lines.append(
            f"{headline} is no plain mean over rows; difference, interval and p are those of the rows' own values"
            f" (means {sides[0].mean:.4f} and {sides[1].mean:.4f})"
        )
    first, second = (list(dict.fromkeys(score.notices)) for score in scores)
    lines += [notice for notice in first if notice in second]
    lines += [f"A: {notice}" for notice in first if notice not in second]
    lines += [f"B: {notice}" for notice in second if notice not in first]
    return lines


def in_points(headline: str, share: bool) -> bool:
    """Return whether differences of a score are told in points: those of shares of 1 and of relative scores.

    Args:
        headline: name of the score.
        share: whether it is a share of 1.
    """
    return share or headline in RELATIVE


def verdict(difference: Interval, p: float, share: bool = True, names: tuple[str, str] = ("A", "B")) -> str:
    """Say in plain words what interval and p-value allow to say.

    Args:
        difference: B minus A.
        p: p-value of the same difference.
        share: whether the difference is told in points; see :func:`in_points`.
        names: names of A and B.

    Returns:
        A sentence. It names a better side only where the interval excludes 0 and p is below 0.05.
    """
    without_draws = difference.draws == 0  # then no row differs from another
    if difference.value == 0.0 and (without_draws or difference.low == difference.high):
        return f"{names[0]} and {names[1]} score the same on every row."
    if difference.ends is None:
        return "No clear difference: the rows are of one image or patient, which has no interval."
    low, high = difference.ends
    apart = low > 0.0 or high < 0.0
    better = names[1] if difference.value > 0.0 else names[0]
    size = f"{100 * abs(difference.value):.1f} points" if share else f"{abs(difference.value):.3f}"
    if apart and p < SIGNIFICANT:
        return f"{better} is better by {size}: the interval excludes 0."
    if apart:
        return f"No clear difference: the interval excludes 0, but p is {p:.3g}."
    if p < SIGNIFICANT:
        return f"No clear difference: p is {p:.3g}, but the interval includes 0."
    return "No proof of a difference: the interval includes 0."
