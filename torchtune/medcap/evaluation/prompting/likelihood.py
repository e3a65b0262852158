"""Multiple-choice questions answered by how likely the model finds each option: one pass, nothing to parse."""

from __future__ import annotations

import string
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from medcap.errors import UserError
from medcap.evaluation.answering import Engine, Entry, PredictionStore, collect, scored
from medcap.evaluation.prompting.base import Way
from medcap.evaluation.prompting.options import NO_OPTIONS, lettered, with_text
from medcap.generation.request import Request
from medcap.scoring.question import Question


class LikelihoodWay(Way):
    """What the likelihood ways share.

    Attributes:
        end_of_turn: whether that the answer ends behind the candidate is scored as well.
    """

    end_of_turn: ClassVar[bool]

    @property
    def file(self) -> str:  # type: ignore[override]
        """See :class:`Way`."""
        return f"predictions_{self.name}"

    @abstractmethod
    def request(self, row: Question) -> Request:
        """What stands before the candidates."""

    @abstractmethod
    def candidates(self, row: Question) -> list[str]:
        """The texts that are scored, in the order of the options."""

    def ask(self, rows: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        """See :meth:`Way.ask`; the prediction is an option's own text."""
        if engine.score is None:
            raise UserError(f"{self.name} needs the model's likelihoods")
        requests = [self.request(row) if row.options else NO_OPTIONS for row in rows]
        candidates = [self.candidates(row) for row in rows]
        # By identity: collect asks some of these very requests.
        texts_of = {id(request): texts for request, texts in zip(requests, candidates, strict=True)}

        def run(asked: list[Request], on_result: Any) -> Any:
            return engine.score(asked, [texts_of[id(request)] for request in asked], self.end_of_turn, on_result)

        def make(index: int, result: Any) -> Entry:
            return scored(rows[index].options, result)

        with store.open(self.file, {"asked": self.name}) as file:
            return collect(rows, requests, run, make, file, extra=candidates)


class OptionText(LikelihoodWay):
    """How likely each option's words are as the whole answer to the question, which does not show them."""

    name = "option_text"
    template = "user: {image}\n{question}\nassistant: [each option and the end of the turn]"
    end_of_turn = True

    def request(self, row: Question) -> Request:
        """See :meth:`LikelihoodWay.request`."""
        return Request(row.messages, row.id)

    def candidates(self, row: Question) -> list[str]:
        """See :meth:`LikelihoodWay.candidates`."""
        return list(row.options)


class OptionLetter(LikelihoodWay):
    """How likely each option's letter is as the first word of the answer; the options are shown with their letters."""

    name = "option_letter"
    _instruction = "Answer with the option's letter from the given choices directly."
    template = f"user: {{image}}\n{{question}}\n{{lettered options}}\n{_instruction}\nassistant: [each letter]"
    end_of_turn = False

    def request(self, row: Question) -> Request:
        """See :meth:`LikelihoodWay.request`."""
        text = f"{row.text}\n{lettered(row.options)}\n{self._instruction}"
        return Request(with_text(row, text), row.id)

    def candidates(self, row: Question) -> list[str]:
        """See :meth:`LikelihoodWay.candidates`."""
        return list(string.ascii_uppercase[: len(row.options)])


class PrefixLikelihood(LikelihoodWay):
    """OmniMedVQA's prefix-based score (Multi-Modality-Arena, MedicalEval/Prefix_based_Score/medical_llava.py, lines
    186-305: ``Question: {question} The answer is {option}.``), with the image, which the published script leaves out:
    the option whose tokens, the full stop included, have the lowest mean cross-entropy."""

    name = "omnimedvqa_prefix"
    template = "user: {image}\nQuestion: {question}\nassistant: The answer is[ each option.]"
    end_of_turn = False

    def request(self, row: Question) -> Request:
        """See :meth:`LikelihoodWay.request`."""
        return Request(with_text(row, f"Question: {row.text}"), row.id, answer_prefix="The answer is")

    def candidates(self, row: Question) -> list[str]:
        """See :meth:`LikelihoodWay.candidates`."""
        return [f" {option}." for option in row.options]
