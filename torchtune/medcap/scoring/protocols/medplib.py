"""MedPLIB's evaluator.

Source: ShawnHuang497/MedPLIB, ``model/eval/cal_metric.py`` and ``model/eval/evaluate_metrics.py``.
"""

from __future__ import annotations

from collections.abc import Sequence

from medcap.scoring.protocols.open_closed import CLOSED, OPEN, OpenClosed
from medcap.scoring.question import Answer
from medcap.scoring.replies.word_scores import CandidateIndex, normalize_word

_KINDS = {"open": OPEN, "other": OPEN, "number": OPEN, "yes/no": CLOSED, "closed": CLOSED}


class Medplib(OpenClosed):
    """``cal_metric.py`` with its candidate set, which is made of the references of the scored file itself.

    Published, the candidates are a set of Python strings, so that ties fall differently from run to run; here they
    are in the order in which the file has them.
    """

    name = "medplib"
    description = (
        "MedPLIB's cal_metric.py: a closed answer is right when it equals the reference after LLaVA-Med's"
        " normalisation; an open one when it does or when the nearest of all references of the file is its own; word"
        " measures for open questions as in llava_med"
    )
    headline = "accuracy"
    answer_types = "open, other, number, closed or yes/no"

    def kind(self, answer_type: str) -> str | None:
        """Whatever the case; see :class:`OpenClosed`."""
        return _KINDS.get(answer_type.lower())

    def prepare(self, answers: Sequence[Answer]) -> list[str]:
        """Gather the candidates; see :class:`OpenClosed`."""
        self._index = CandidateIndex([answer.question.references[0] for answer in answers])
        notices = super().prepare(answers)
        if not any(self.kind(answer.question.answer_type) == OPEN for answer in answers):
            return notices
        return [
            *notices,
            "open.accuracy: the candidates are the references of this file in the order of the rows; the published"
            " order is random",
        ]

    def open_hit(self, answer: Answer, prediction: str, reference: str) -> bool:
        """Equality or retrieval; see :class:`OpenClosed`."""
        prediction, reference = normalize_word(prediction), normalize_word(reference)
        return prediction == reference or self._index.nearest(prediction) == reference

    def closed_hit(self, answer: Answer, prediction: str, reference: str) -> bool:
        """Equality; see :class:`OpenClosed`."""
        return prediction == reference
