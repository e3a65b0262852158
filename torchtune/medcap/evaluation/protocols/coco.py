"""The COCO caption metrics as a protocol."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from medcap.evaluation.metrics.caption import BLEU_ORDERS, bleu_of_sums, caption_metrics
from medcap.evaluation.protocols.base import Protocol, ProtocolScores
from medcap.evaluation.protocols.summary import check_answers, reasoning_notice
from medcap.evaluation.rows import Answer
from medcap.evaluation.statistics import bootstrap_interval, bootstrap_of_sums

# The set's score is the mean of the rows' for these alone.
_MEANS = ("ROUGE_L", "CIDEr", "SPICE")


class Coco(Protocol):
    """pycocoevalcap's metrics against all references of a row.

    The intervals of BLEU draw rows and sum their counts anew; those of ROUGE_L, CIDEr and SPICE are of the rows' mean,
    with CIDEr's document frequencies kept. METEOR's corpus formula is Java's alone, so it has none.
    """

    name = "coco"
    description = (
        "the COCO caption metrics of pycocoevalcap (PTB tokens, lower case, punctuation removed) against all references"
        " of a row; an empty caption scores 0 and is counted"
    )
    headline = "CIDEr"

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score captions; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        published = reasoning_notice(answers, published=True)
        result = caption_metrics(
            [answer.prediction for answer in answers], [list(answer.references) for answer in answers]
        )
        intervals = {
            f"Bleu_{order}": bootstrap_of_sums(result.bleu_counts, partial(bleu_of_sums, order=order)).as_dict()
            for order in range(1, BLEU_ORDERS + 1)
        }
        intervals |= {name: bootstrap_interval(result.rows[name]).as_dict() for name in _MEANS if name in result.rows}
        rows = [
            {
                "question_id": answer.question_id,
                **{name: values[index] for name, values in result.rows.items()},
                "correct": None,
                "value": result.rows[self.headline][index],
            }
            for index, answer in enumerate(answers)
        ]
        return ProtocolScores(dict(result.scores), intervals, rows, counts, [*result.notices, *published])
