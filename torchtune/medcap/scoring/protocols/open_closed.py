"""What the rules that divide questions into open and closed ones share."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from medcap.errors import UserError
from medcap.scoring.protocols.base import Protocol, ProtocolScores
from medcap.scoring.protocols.summary import (
    check_answers,
    count_notice,
    one_reference_notice,
    reasoning_notice,
    row_means,
)
from medcap.scoring.question import Answer
from medcap.scoring.replies.word_scores import WORD_SCORES, normalized, word_scores

OPEN, CLOSED = "open", "closed"


class OpenClosed(Protocol):
    """Word measures for open questions, right or wrong for closed ones.

    A row's values are ``open.<name>`` for the ``WORD_SCORES``, ``open.accuracy`` where the rule decides open
    questions, and ``closed.accuracy``. The headline is the mean of the rows' ``value`` over open and closed questions
    together, each question with the same weight.

    Attributes:
        answer_types: what a reader must write into ``answer_type``, for messages.
    """

    answer_types: ClassVar[str] = "OPEN or CLOSED"

    def kind(self, answer_type: str) -> str | None:
        """Tell open from closed questions.

        Args:
            answer_type: answer type as the row has it.

        Returns:
            ``open``, ``closed``, or None for a row that the rule passes over.
        """
        return {"OPEN": OPEN, "CLOSED": CLOSED}.get(answer_type)

    def reply(self, answer: Answer) -> str:
        """Return the words that are scored: everything that a model said, as in the published rules."""
        return answer.prediction

    def prepare(self, answers: Sequence[Answer]) -> list[str]:
        """Look at all answers before the first is scored.

        Args:
            answers: all rows.

        Returns:
            Notices.
        """
        return reasoning_notice(answers, published=True)

    @abstractmethod
    def open_hit(self, answer: Answer, prediction: str, reference: str) -> bool | None:
        """Return whether an open question is answered correctly.

        Args:
            answer: the row.
            prediction: lower-cased and normalised once.
            reference: lower-cased and normalised once.

        Returns:
            None if the rule does not decide it.
        """

    @abstractmethod
    def closed_hit(self, answer: Answer, prediction: str, reference: str) -> bool:
        """Return whether a closed question is answered correctly; see :meth:`open_hit`."""

    def open_values(self, answer: Answer, prediction: str, reference: str) -> dict[str, float]:
        """Return the values of ``WORD_SCORES`` of an open question; see :meth:`open_hit`."""
        return dict(zip(WORD_SCORES, word_scores(prediction, reference), strict=True))

    def closed_values(self, prediction: str, reference: str) -> dict[str, float]:
        """Further values of a closed question; see :meth:`open_hit`."""
        return {}

    def open_value(self, values: dict[str, float]) -> float:
        """Return an open question's part of the headline."""
        return values["accuracy"]

    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score answers; see :meth:`Protocol.score`."""
        counts = check_answers(answers, self.name)
        kinds = [self.kind(answer.question.answer_type) for answer in answers]
        notices = self._check_kinds(answers, kinds) + one_reference_notice(answers) + self.prepare(answers)
        rows = [self._row(answer, kind) for answer, kind in zip(answers, kinds, strict=True)]
        counts |= {f"{kind}.n": kinds.count(kind) for kind in (OPEN, CLOSED)}
        if ignored := kinds.count(None):
            counts["ignored"] = ignored
        lucky = [answer for answer, row in zip(answers, rows, strict=True) if answer.failed and row["correct"]]
        notices += count_notice("rows without an answer that the published rule counts as right", lucky, answers)
        names = dict.fromkeys(name for kind in (OPEN, CLOSED) for row in rows for name in row if name.startswith(kind))
        scores, intervals = row_means(rows, {**{name: name for name in names}, self.headline: "value"})
        return ProtocolScores(scores, intervals, rows, counts, notices)

    def _row(self, answer: Answer, kind: str | None) -> dict[str, Any]:
        if kind is None:
            return {"question_id": answer.question.id, "correct": None, "value": None}
        prediction, reference = normalized(self.reply(answer)), normalized(answer.question.references[0])
        if kind == OPEN:
            correct = self.open_hit(answer, prediction, reference)
            values = self.open_values(answer, prediction, reference)
            if correct is not None:
                values["accuracy"] = float(correct)
            value = self.open_value(values)
        else:
            correct = self.closed_hit(answer, prediction, reference)
            value = float(correct)
            values = {"accuracy": value, **self.closed_values(prediction, reference)}
        dotted = {f"{kind}.{name}": number for name, number in values.items()}
        return {"question_id": answer.question.id, **dotted, "correct": correct, "value": value}

    def _check_kinds(self, answers: Sequence[Answer], kinds: Sequence[str | None]) -> list[str]:
        ignored = [answer for answer, kind in zip(answers, kinds, strict=True) if kind is None]
        if not ignored:
            return []
        first = f"the first, {ignored[0].question.id}, has {ignored[0].question.answer_type!r}"
        if len(ignored) == len(answers):
            raise UserError(f"{self.name}: no row has an 'answer_type' of {self.answer_types} ({first}): add it")
        return [
            f"rows in no denominator, because their answer_type is not {self.answer_types}:"
            f" {len(ignored)} of {len(answers)} ({first})"
        ]
