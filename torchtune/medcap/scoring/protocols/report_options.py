"""Options of a structured report: one or several are right, and levels of the report are scored apart."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import partial
from typing import Any

import numpy as np

from medcap.errors import UserError
from medcap.scoring.protocols.base import Prompt, Protocol, ProtocolScores
from medcap.scoring.protocols.summary import check_answers, count_notice, reasoning_notice, row_means
from medcap.scoring.question import BETWEEN_OPTIONS, Answer, Question
from medcap.scoring.replies.final_reply import final_reply
from medcap.scoring.replies.option_reply import parse_option
from medcap.scoring.replies.option_words import named_options
from medcap.scoring.replies.reply_text import clean
from medcap.scoring.statistics import FEW_DRAWS, bootstrap_of_sums

_MEANS = ("f1", "precision", "recall")
Label = tuple[str, str]  # the question's place in the report, and an option of it


class ReportOptions(Protocol):
    """Which options a reply names, against all that are right.

    The scores of Rad-ReStruct (Pellegrini et al., 2023, arXiv:2307.05766; ``evaluation/evaluator_radrestruct.py``) over
    the questions that are asked: a label is an option of a question, and precision, recall and F1 are means over the
    labels that are right somewhere (``support > 0``, ``zero_division=1``), for all questions and for each level.

    Not the published evaluation, which scores the whole report as a vector of 2,470 labels: there the model's own
    answers decide what is asked next, several findings of one kind are told apart by their number, questions that were
    not asked count as answered by no, and averages of averages are among the labels.
    """

    name = "report_options"
    prompt = Prompt.LISTED_OPTIONS
    description = (
        "the options that a reply names as whole words and does not deny, right when they are exactly those of the"
        " reference; f1, precision and recall are means over the options that are right somewhere, each at its place in"
        " the report (phrase); levels are those of question_type; intervals draw the questions of a report together"
    )
    headline = "accuracy"

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score replies; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        bare = [answer for answer in answers if not answer.question.options]
        if len(bare) == len(answers):
            raise UserError(
                f"{self.name}: no row has 'options' (the first is {bare[0].question.id}): add the list to it"
            )
        rows, pairs = [], []
        for answer in answers:
            right, named = right_options(answer.question), _named(answer)
            correct = bool(right) and named == right
            level = answer.question.meta.get("question_type", "")
            pairs.append((level, _labels(answer.question, right), _labels(answer.question, named)))
            rows.append(_row(answer, correct, level, named))
        levels = sorted({level for level, _, _ in pairs if level})
        keys = {"accuracy": "value"} | {f"{_key(level)}.accuracy": f"{_key(level)}.accuracy" for level in levels}
        clusters = [answer.question.cluster for answer in answers]
        scores, intervals = row_means(rows, keys, clusters)
        for level in ("", *levels):
            own = [index for index, pair in enumerate(pairs) if level in ("", pair[0])]
            sums = label_sums([pairs[index][1:] for index in own], [clusters[index] for index in own])
            for name in _MEANS if sums.size else ():
                key = f"{_key(level)}.{name}" if level else name
                scores[key] = float(mean_of_labels(sums.sum(axis=0, keepdims=True), name)[0])
                interval = bootstrap_of_sums(sums, partial(mean_of_labels, name=name), FEW_DRAWS)
                intervals[key] = interval.as_dict()
        strange = [answer for answer in answers if answer.question.options and not right_options(answer.question)]
        notices = [
            *count_notice("rows without options, counted as wrong", bare, answers),
            *count_notice("rows whose reference is not made of options, counted as wrong", strange, answers),
            *reasoning_notice(answers),
        ]
        return ProtocolScores(scores, intervals, rows, counts, notices, clustered=True)


def right_options(question: Question) -> frozenset[int]:
    """Return the numbers of the options that a reference names, separated by semicolons or in a sentence.

    Args:
        question: its first reference counts.

    Returns:
        The numbers; none where some part of a reference in semicolons is no option.
    """
    place = {option: index for index, option in enumerate(question.options)}
    parts = [part.strip() for part in question.references[0].split(BETWEEN_OPTIONS.strip()) if part.strip()]
    if all(part in place for part in parts):
        return frozenset(place[part] for part in parts)
    return frozenset() if len(parts) > 1 else _in_words(question.references[0], question.options)


def label_sums(pairs: Sequence[tuple[frozenset[Label], frozenset[Label]]], clusters: Sequence[Hashable]) -> np.ndarray:
    """Count labels.

    Args:
        pairs: for each of n questions the right labels and the named ones.
        clusters: [n] what the questions of a report share.

    Returns:
        [c, 3 L] float64: for each cluster, how often each of the L labels that are right somewhere is hit, right, and
        named.
    """
    labels = {label: number for number, label in enumerate(sorted(set().union(*(right for right, _ in pairs))))}
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    sums = np.zeros((len(numbers), 3, len(labels)))
    for (right, named), cluster in zip(pairs, clusters, strict=True):
        for kind, chosen in enumerate((right & named, right, named)):
            for label in chosen:
                if label in labels:
                    sums[numbers[cluster], kind, labels[label]] += 1
    return sums.reshape(len(numbers), -1)


def mean_of_labels(sums: np.ndarray, name: str) -> np.ndarray:
    """Return means over labels, as scikit-learn's ``classification_report`` has them for ``zero_division=1``.

    Args:
        sums: [b, 3 L], each row a sum over rows of :func:`label_sums`.
        name: ``f1``, ``precision`` or ``recall``.

    Returns:
        [b] means over the labels that are right at least once in the row's sum; 0 where there is none.
    """
    hits, right, named = np.split(sums, 3, axis=1)  # [b, L]
    there = right > 0
    above, below = {"f1": (2.0 * hits, right + named), "precision": (hits, named), "recall": (hits, right)}[name]
    values = np.divide(above, below, out=np.ones_like(above), where=below > 0)
    return (values * there).sum(axis=1) / np.maximum(there.sum(axis=1), 1)


def _row(answer: Answer, correct: bool, level: str, named: frozenset[int]) -> dict[str, Any]:
    hit = float(correct)
    return {
        "question_id": answer.question.id,
        "choice": BETWEEN_OPTIONS.join(answer.question.options[index] for index in sorted(named)) or None,
        **({f"{_key(level)}.accuracy": hit} if level else {}),
        "correct": correct,
        "value": hit,
    }


def _key(level: str) -> str:
    return level.replace(" ", "_").replace(".", "_")


def _named(answer: Answer) -> frozenset[int]:
    return _in_words(final_reply(answer.prediction), answer.question.options)


def _in_words(text: str, options: tuple[str, ...]) -> frozenset[int]:
    if len(options) == 2:  # yes or no: "No, there is no opacity" is a verdict, not a list
        chosen = parse_option(text, options)
        return frozenset() if chosen is None else frozenset((chosen,))
    return frozenset(named_options(clean(text), [clean(option) for option in options])[0])


def _labels(question: Question, chosen: frozenset[int]) -> frozenset[Label]:
    return frozenset((question.meta.get("phrase", ""), question.options[index]) for index in chosen)
