"""More than two models' answers to the same questions, compared in pairs with one correction for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from medcap.errors import UserError
from medcap.scoring.comparison import Comparison, Pairs, compare, in_points, pair_answers, verdict
from medcap.scoring.paired_tests import holm
from medcap.scoring.protocols.base import Protocol
from medcap.scoring.question import Answer


@dataclass(frozen=True)
class RunScore:
    """A run's result on the rows that all runs have.

    Attributes:
        name: of the run.
        score: the protocol's headline.
        interval: (low, high) of it; None where there is none.
        failures: rows without an answer.
        left_out: rows that not every run has.
    """

    name: str
    score: float
    interval: tuple[float, float] | None
    failures: int
    left_out: int


@dataclass(frozen=True)
class PairOfRuns:
    """Two runs of several.

    Attributes:
        first: index of A.
        second: index of B.
        comparison: B against A, with its own p-value.
        p_holm: p-value corrected for all comparisons (Holm).
        verdict: in a sentence that uses the corrected p-value.
    """

    first: int
    second: int
    comparison: Comparison
    p_holm: float
    verdict: str


@dataclass(frozen=True)
class ManyComparisons:
    """Several runs, and the pairs of them that were compared.

    Attributes:
        protocol: its name.
        headline: name of the score.
        share: whether it is a share of 1.
        n: rows that all runs have.
        runs: in the order in which they were given.
        pairs: the comparisons.
        notices: what a reader must know.
    """

    protocol: str
    headline: str
    share: bool
    n: int
    runs: list[RunScore]
    pairs: list[PairOfRuns]
    notices: list[str]

    def as_dict(self) -> dict[str, Any]:
        """Return the comparisons for a JSON file."""
        return {
            "protocol": self.protocol,
            "score": self.headline,
            "n": self.n,
            "correction": "holm",
            "runs": [vars(run).copy() for run in self.runs],
            "pairs": [
                {
                    "a": self.runs[pair.first].name,
                    "b": self.runs[pair.second].name,
                    "p_holm": pair.p_holm,
                    **{key: value for key, value in pair.comparison.as_dict().items() if key not in ("a", "b")},
                    "verdict": pair.verdict,
                }
                for pair in self.pairs
            ],
            "notices": self.notices,
        }


def compare_many(
    runs: Sequence[Sequence[Answer]], names: Sequence[str], protocol: Protocol, to_first: bool = False
) -> ManyComparisons:
    """Score each run on the rows that all have, and compare the runs in pairs.

    Args:
        runs: answers of each run; at least two.
        names: what messages and tables call the runs.
        protocol: scores each run.
        to_first: compare each further run with the first one only; fewer comparisons need a smaller correction.

    Returns:
        The scores and comparisons; differences, intervals and tests are those of
        :func:`medcap.scoring.comparison.compare`.

    Raises:
        UserError: if no row is common to all, a common row's question differs, or the protocol cannot score the rows.
    """
    common = set.intersection(*({answer.question.id for answer in answers} for answers in runs))
    ids = [answer.question.id for answer in runs[0] if answer.question.id in common]
    if not ids:
        raise UserError(f"{', '.join(names)} have no question_id in common: compare answers to the same benchmark")
    # Checks that questions, references and options are the same, and that ids are unique.
    for other, name in zip(runs[1:], names[1:], strict=True):
        pair_answers(runs[0], other, (names[0], name))
    kept = _with_types([{answer.question.id: answer for answer in answers} for answers in runs], ids)
    scores = [protocol.score(answers) for answers in kept]
    chosen = [pair for pair in combinations(range(len(runs)), 2) if not to_first or pair[0] == 0]
    compared = [
        compare(Pairs(kept[first], kept[second], [], []), protocol, (scores[first], scores[second]))
        for first, second in chosen
    ]
    corrected = holm([comparison.p for comparison in compared])
    pairs = [
        PairOfRuns(
            first,
            second,
            comparison,
            p,
            verdict(
                comparison.difference, p, in_points(protocol.headline, protocol.share), (names[first], names[second])
            ),
        )
        for (first, second), comparison, p in zip(chosen, compared, corrected, strict=True)
    ]
    intervals = [score.intervals.get(protocol.headline) for score in scores]
    return ManyComparisons(
        protocol.name,
        protocol.headline,
        protocol.share,
        len(ids),
        [
            RunScore(
                name,
                float(score.scores[protocol.headline]),
                (interval["low"], interval["high"]) if interval else None,
                sum(answer.failed for answer in answers),
                len(all_answers) - len(ids),
            )
            for name, score, interval, answers, all_answers in zip(names, scores, intervals, kept, runs, strict=True)
        ],
        pairs,
        _notices(names, runs, len(ids), [list(score.notices) for score in scores]),
    )


def _with_types(runs: Sequence[dict[str, Answer]], ids: Sequence[str]) -> list[list[Answer]]:
    """Return each run's answers in one order, each with the answer_type that any run knows for its question."""
    kept: list[list[Answer]] = [[] for _ in runs]
    for key in ids:
        known = next((run[key].question.answer_type for run in runs if run[key].question.answer_type), "")
        for answers, run in zip(kept, runs, strict=True):
            answer = run[key]
            if known and not answer.question.answer_type:
                answer = replace(answer, question=replace(answer.question, answer_type=known))
            answers.append(answer)
    return kept


def _notices(
    names: Sequence[str], runs: Sequence[Sequence[Answer]], common: int, notices: Sequence[list[str]]
) -> list[str]:
    lines = [
        f"rows of {name} that not every run has, not compared: {len(answers) - common:,}"
        for name, answers in zip(names, runs, strict=True)
        if len(answers) > common
    ]
    shared = [notice for notice in notices[0] if all(notice in own for own in notices)]
    lines += dict.fromkeys(shared)
    for name, own in zip(names, notices, strict=True):
        lines += [f"{name}: {notice}" for notice in dict.fromkeys(own) if notice not in shared]
    return lines
