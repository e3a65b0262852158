"""Options of a structured report: one or several are right, and levels of the report are scored apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from medcap.errors import UserError
from medcap.scoring.protocols.base import Prompt, Protocol, ProtocolScores
from medcap.scoring.protocols.summary import check_answers, count_notice, reasoning_notice, row_means
from medcap.scoring.question import Answer, Question
from medcap.scoring.replies.final_reply import final_reply
from medcap.scoring.replies.option_reply import parse_option
from medcap.scoring.replies.option_words import named_options
from medcap.scoring.replies.reply_text import clean

BETWEEN = "; "  # right options of a reference; no option of a known benchmark has a semicolon
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
        scores, intervals = row_means(rows, keys, [answer.question.cluster for answer in answers])
        scores |= mean_scores([pair[1:] for pair in pairs])
        for level in levels:
            own = mean_scores([pair[1:] for pair in pairs if pair[0] == level])
            scores |= {f"{_key(level)}.{name}": value for name, value in own.items()}
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
    parts = [part.strip() for part in question.references[0].split(BETWEEN.strip()) if part.strip()]
    if all(part in place for part in parts):
        return frozenset(place[part] for part in parts)
    return frozenset() if len(parts) > 1 else _in_words(question.references[0], question.options)


def mean_scores(pairs: Iterable[tuple[frozenset[Label], frozenset[Label]]]) -> dict[str, float]:
    """Return the means over labels of precision, recall and F1.

    Args:
        pairs: for each question the right labels and the named ones.

    Returns:
        ``f1``, ``precision`` and ``recall`` over the labels that are right at least once; nothing where there are none.
    """
    hits: Counter[Label] = Counter()
    right: Counter[Label] = Counter()
    named: Counter[Label] = Counter()
    for wanted, given in pairs:
        right.update(wanted)
        named.update(given)
        hits.update(wanted & given)
    if not right:
        return {}
    precision = [hits[label] / named[label] if named[label] else 1.0 for label in right]
    recall = [hits[label] / right[label] for label in right]
    f1 = [2.0 * hits[label] / (right[label] + named[label]) for label in right]
    return {
        name: sum(values) / len(right) for name, values in (("f1", f1), ("precision", precision), ("recall", recall))
    }


def _row(answer: Answer, correct: bool, level: str, named: frozenset[int]) -> dict[str, Any]:
    hit = float(correct)
    return {
        "question_id": answer.question.id,
        "choice": BETWEEN.join(answer.question.options[index] for index in sorted(named)) or None,
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
