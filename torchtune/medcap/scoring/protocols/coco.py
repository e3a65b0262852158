"""The COCO caption metrics as a protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from medcap.errors import UserError
from medcap.scoring.metrics.caption import BLEU_ORDERS, CaptionScores, bleu_of_sums, caption_metrics
from medcap.scoring.metrics.java_scorers import RowFailure
from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.summary import check_answers, reasoning_notice
from medcap.scoring.question import Answer
from medcap.scoring.replies.final_reply import final_reply
from medcap.scoring.statistics import NUMBER, SHARE, bootstrap_interval, bootstrap_of_sums

# The set's score is the mean of the rows' for these alone.
_MEANS = ("ROUGE_L", "CIDEr", "SPICE")


class Coco(Protocol):
    """pycocoevalcap's metrics against all references of a row.

    The intervals of BLEU draw rows and sum their counts; those of ROUGE_L, CIDEr and SPICE are of the rows' mean,
    with CIDEr's document frequencies kept. METEOR's corpus formula is Java's alone, so it has none.
    """

    name = "coco"
    description = (
        "the COCO caption metrics of pycocoevalcap (PTB tokens, lower case, punctuation removed) against all references"
        " of a row; an empty caption scores 0 and is counted"
    )
    headline = "CIDEr"
    share = False
    takes_minutes = True  # it starts Java
    published = True

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score captions; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        reasoning = reasoning_notice(answers, self.published)
        result = caption_scores(
            self.name,
            answers,
            [answer.prediction if self.published else final_reply(answer.prediction) for answer in answers],
            [list(answer.question.references) for answer in answers],
        )
        intervals = {
            f"Bleu_{order}": bootstrap_of_sums(result.bleu_counts, partial(bleu_of_sums, order=order)).as_dict()
            for order in range(1, BLEU_ORDERS + 1)
        }
        for name in (name for name in _MEANS if name in result.rows):
            kind = NUMBER if name == self.headline else SHARE
            intervals[name] = bootstrap_interval(result.rows[name], kind=kind).as_dict()
        rows = [
            {
                "question_id": answer.question.id,
                **{name: values[index] for name, values in result.rows.items()},
                "correct": None,
                "value": result.rows[self.headline][index],
            }
            for index, answer in enumerate(answers)
        ]
        notices = [*result.notices, *reasoning, *failure_notices(answers, result.failures), *_without_width(intervals)]
        return ProtocolScores(dict(result.scores), intervals, rows, counts, notices)


class CocoStrict(Coco):
    """The same of captions without a model's reasoning."""

    name = "coco_strict"
    description = (
        "the COCO caption metrics of pycocoevalcap of the final reply, a model's reasoning taken off, against all"
        " references of a row; an empty caption scores 0 and is counted"
    )
    published = False


def caption_scores(
    protocol: str, answers: Sequence[Answer], captions: list[str], references: list[list[str]]
) -> CaptionScores:
    """Score captions.

    Args:
        protocol: name for messages.
        answers: the rows.
        captions: what is scored of each.
        references: at least one text for each.

    Returns:
        Scores of the set and of each row.

    Raises:
        UserError: if METEOR fails on many rows, which names the last one, or Java cannot be started.
    """
    try:
        return caption_metrics(captions, references)
    except RowFailure as failure:
        raise UserError(
            f"{protocol}: METEOR's Java process ended early, the last time on {_called(answers[failure.row])}:"
            f" {failure.reason}"
        ) from failure


def _called(answer: Answer) -> str:
    return f"row {answer.question.id} ({len(answer.prediction.split()):,} words)"


def failure_notices(answers: Sequence[Answer], failures: Mapping[int, str]) -> list[str]:
    """Name the rows that count as empty captions for METEOR.

    Args:
        answers: the rows.
        failures: index of a row -> why Java ended.
    """
    return [
        f"METEOR counts {_called(answers[row])} as an empty caption, because its Java process ended early: {reason}"
        for row, reason in failures.items()
    ]


def _without_width(intervals: Mapping[str, Mapping[str, float | None]]) -> list[str]:
    # These scores are not shares of rows, so Wilson's interval is not theirs. BLEU's constants leave a trace of width.
    ends = {name: (interval["low"], interval["high"]) for name, interval in intervals.items()}
    names = [name for name, (low, high) in ends.items() if low is not None and high is not None and high - low < 1e-9]
    return [f"intervals without a width, because all rows score alike: {', '.join(names)}"] if names else []
