"""LLaVA-Med's evaluators as published, and a strict form of them.

Source: microsoft/LLaVA-Med v1.0.0, ``llava/eval/run_eval.py`` and ``llava/eval/run_eval_batch.py``. The published
ones take a missing answer for an empty text and score that; see the notices of the result.
"""

from __future__ import annotations

from collections.abc import Sequence

from medcap.errors import UserError
from medcap.scoring.protocols import exact
from medcap.scoring.protocols.open_closed import OpenClosed
from medcap.scoring.protocols.summary import reasoning_notice
from medcap.scoring.question import Answer
from medcap.scoring.replies.final_reply import final_reply
from medcap.scoring.replies.numbers import same_number
from medcap.scoring.replies.word_scores import CandidateIndex, normalize_word, overlap


class LlavaMed(OpenClosed):
    """``run_eval.py`` of v1.0.0.

    ``open.exact_match`` is, under its published name, a precision; the number that papers print for open questions is
    ``open.recall``. ``overall`` weighs that recall and the closed accuracy by their numbers of questions, as result
    tables do. The rule calls an open answer right or wrong only where candidates are given.

    Args:
        candidates: answers of the training set for ``open.accuracy``, which is absent without them.

    Raises:
        UserError: if the list is empty.

    Example:
        >>> scores = LlavaMed().score(answers).scores
        >>> scores["open.recall"], scores["closed.accuracy"]
    """

    name = "llava_med"
    description = (
        "LLaVA-Med's run_eval.py (v1.0.0): word measures for OPEN questions, whose published number is the recall; a"
        " CLOSED answer is right when it contains 'yes' or 'no' and the reference, as substrings (so 'normal' contains"
        " 'no'); overall is the mean over rows of recall and right answers"
    )
    headline = "overall"

    def __init__(self, candidates: Sequence[str] | None = None) -> None:
        if candidates is not None and not candidates:
            raise UserError("candidates: the list of candidate answers is empty")
        self._index = CandidateIndex(candidates) if candidates else None

    def open_hit(self, answer: Answer, prediction: str, reference: str) -> bool | None:
        """Return whether the nearest candidate equals the reference; see :class:`OpenClosed`."""
        if self._index is None:
            return None
        return self._index.nearest(normalize_word(prediction)) == normalize_word(reference)

    def closed_hit(self, answer: Answer, prediction: str, reference: str) -> bool:
        """Substrings; see :class:`OpenClosed`."""
        return ("yes" in prediction or "no" in prediction) and reference in prediction

    def open_value(self, values: dict[str, float]) -> float:
        """Recall; see :class:`OpenClosed`."""
        return values["recall"]


class LlavaMedBatch(OpenClosed):
    """``run_eval_batch.py`` of v1.0.0."""

    name = "llava_med_batch"
    description = (
        "LLaVA-Med's run_eval_batch.py (v1.0.0): an answer, open or closed, is right when it contains the reference as"
        " a substring; word measures for OPEN questions as in llava_med, and the recall of CLOSED ones"
    )
    headline = "accuracy"

    def open_hit(self, answer: Answer, prediction: str, reference: str) -> bool:
        """Substring; see :class:`OpenClosed`."""
        return reference in prediction

    def closed_hit(self, answer: Answer, prediction: str, reference: str) -> bool:
        """Substring; see :class:`OpenClosed`."""
        return reference in prediction

    def closed_values(self, prediction: str, reference: str) -> dict[str, float]:
        """Recall; see :class:`OpenClosed`."""
        return {"recall": overlap(prediction, reference)[2]}


class LlavaMedStrict(OpenClosed):
    """LLaVA-Med's measures with equality where it has substrings, retrieval and a precision called exact match."""

    name = "llava_med_strict"
    description = (
        "LLaVA-Med's measures made strict: an answer, OPEN or CLOSED, is right when it equals the reference after"
        " LLaVA-Med's normalisation (open.exact_match and open.accuracy are that equality) or is the same number (2 and"
        " 2.0), and a missing one is wrong; a model's reasoning is taken off first; precision, recall, F1 and BLEU as"
        " in llava_med"
    )
    headline = "accuracy"

    def kind(self, answer_type: str) -> str | None:
        """As published, but 'closed' and 'CLOSED ' are CLOSED too; see :class:`OpenClosed`."""
        return super().kind(answer_type.strip().upper())

    def reply(self, answer: Answer) -> str:
        """Return the final reply; see :class:`OpenClosed`."""
        return final_reply(answer.prediction)

    def prepare(self, answers: Sequence[Answer]) -> list[str]:
        """Count replies without an end; see :class:`OpenClosed`."""
        return reasoning_notice(answers)

    def open_hit(self, answer: Answer, prediction: str, reference: str) -> bool:
        """Equality; see :class:`OpenClosed`."""
        return self.closed_hit(answer, prediction, reference)

    def closed_hit(self, answer: Answer, prediction: str, reference: str) -> bool:
        """Equality; see :class:`OpenClosed`."""
        reply, wanted = exact.normalize(self.reply(answer)), exact.normalize(answer.question.references[0])
        if same_number(reply, wanted):
            return True
        if prediction != reference or not self.reply(answer).strip():
            return False
        # The normalisation drops 'A' as an article: with no word left, the texts themselves must be equal.
        return bool(prediction) or reply == wanted

    def open_values(self, answer: Answer, prediction: str, reference: str) -> dict[str, float]:
        """Use equality instead of the exact match; see :class:`OpenClosed`."""
        values = super().open_values(answer, prediction, reference)
        return {**values, "exact_match": float(self.open_hit(answer, prediction, reference))}
