"""The strict protocol ``boxes``: none, one or many boxes, with every answer in the denominator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medcap.data.boxes.box import Box
from medcap.errors import UserError
from medcap.scoring.metrics.boxes import giou, num_hits, overlaps, pair_sum
from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.exact import exact_match
from medcap.scoring.protocols.grounding.replies import is_unparsed, unread_notices
from medcap.scoring.protocols.summary import check_answers, count_notice, reasoning_notice, row_means
from medcap.scoring.question import Answer
from medcap.scoring.replies.box_reply import BoxReply, predicted_boxes, reference_boxes
from medcap.scoring.statistics import NUMBER

THRESHOLDS = {"acc_30": 0.3, "acc_50": 0.5, "acc_75": 0.75}
_NAMES = ("mean_iou", "mean_giou", *THRESHOLDS, "set_f1_50", "false_positive_rate", "words_accuracy")


class Boxes(Protocol):
    """Overlap of boxes, one to one.

    Of a question with r boxes in its reference and p in its answer, boxes that cannot be read among the p, the boxes
    are paired one to one so that the sum of the IoU is largest (the assignment problem). With m = max(r, p), so that a
    box too many costs as much as a missing one:

    - ``mean_iou``: sum of the pairs' IoU, divided by m;
    - ``mean_giou``: the same of the generalised IoU (Rezatofighi et al., 2019), its own sum being largest, where each
      of the m without a partner counts -1, the lowest value;
    - ``acc_30``, ``acc_50``, ``acc_75``: most one-to-one pairs with IoU >= 0.3, 0.5, 0.75, divided by m; of one box
      each this is the usual Acc@t.

    These are means over the questions whose object is there (r > 0). Over all questions:

    - ``set_f1_50``: 2 h / (r + p) with h pairs of IoU >= 0.5 (F1 of two sets); 1 where neither side has a box, 0 where
      one has.

    Over the questions whose object is absent (r = 0):

    - ``false_positive_rate``: share with any box in the answer, readable or not. An answer that is missing gives none.

    Over the questions that are answered in words, such as what lies in a box (REG):

    - ``words_accuracy``: share that the protocol ``exact`` takes for right. They are in no other denominator.

    Labels of the boxes are not compared.
    """

    name = "boxes"
    description = (
        "boxes of an answer are paired one to one with those of the reference; mean IoU, generalised IoU and Acc"
        " (IoU >= 0.3, 0.5, 0.75) over the questions whose object is there, where a missing box, one too many and one"
        " that cannot be read count as misses; set F1 at 0.5 over all questions; the share of absent objects for which"
        " a box is given; questions that are answered in words count for words_accuracy alone, as in exact; intervals"
        " draw patients where they are known, otherwise images"
    )
    headline = "mean_iou"
    scores_boxes = True

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score boxes; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        wanted = [reference_boxes(answer.question) for answer in answers]
        if all(boxes is None for boxes in wanted):
            raise UserError(
                f"{self.name}: no row asks for a box: give rows 'reference_boxes' (a list, empty for an absent object),"
                " or a reference with boxes"
            )
        replies = [predicted_boxes(answer) for answer in answers]
        rows = [
            {
                "question_id": answer.question.id,
                **(_words(answer) if boxes is None else _values(boxes, reply, answer.failed)),
            }
            for answer, boxes, reply in zip(answers, wanted, replies, strict=True)
        ]
        clusters = [answer.question.cluster for answer in answers]
        scores, intervals = row_means(rows, {name: name for name in _NAMES}, clusters, {"mean_giou": NUMBER})
        asked = [
            (answer, reply, boxes)
            for answer, reply, boxes in zip(answers, replies, wanted, strict=True)
            if boxes is not None
        ]
        counts |= {
            "present": sum(bool(boxes) for _, _, boxes in asked),
            "absent": sum(not boxes for _, _, boxes in asked),
            "unparsed": sum(is_unparsed(reply, boxes) for _, reply, boxes in asked),
            "clusters": len({answer.question.cluster for answer, _, _ in asked}),
        }
        said = [answer for answer, boxes in zip(answers, wanted, strict=True) if boxes is None]
        counts |= {"words": len(said)} if said else {}
        notices = count_notice("rows that ask for words and not for a box, in words_accuracy alone", said, answers)
        notices += unread_notices([(answer, reply) for answer, reply, _ in asked]) + reasoning_notice(answers)
        return ProtocolScores(scores, intervals, rows, counts, notices, clustered=True)


def _words(answer: Answer) -> dict[str, Any]:
    right = exact_match(answer.prediction, answer.question.references)
    return {"words_accuracy": float(right), "correct": right, "value": None}


def _values(wanted: tuple[Box, ...], reply: BoxReply, failed: bool) -> dict[str, Any]:
    """Return the values of a row that asks for boxes; those whose denominator it is not in are absent."""
    table = overlaps(wanted, reply.boxes)
    f1 = set_f1(table, reply.given) if wanted or reply.given else float(not failed)
    if not wanted:
        given = float(reply.given > 0)
        return {"set_f1_50": f1, "false_positive_rate": given, "correct": f1 == 1.0, "value": None}
    most = max(len(wanted), reply.given)
    above = overlaps(wanted, reply.boxes, giou, -1.0) + 1.0  # above the lowest value
    values = {
        "mean_iou": pair_sum(table) / most,
        "mean_giou": pair_sum(above) / most - 1.0,
        **{name: num_hits(table, threshold) / most for name, threshold in THRESHOLDS.items()},
    }
    return {**values, "set_f1_50": f1, "correct": f1 == 1.0, "value": values["mean_iou"]}


def set_f1(table: np.ndarray, given: int) -> float:
    """F1 of two sets of boxes at IoU >= 0.5.

    Args:
        table: [r, p] IoU of each pair.
        given: boxes of the answer, those that cannot be read among them.
    """
    return 2.0 * num_hits(table, 0.5) / (len(table) + given)
