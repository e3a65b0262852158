"""Multiple-choice questions answered by how likely the model finds each option: one pass, nothing to parse."""

from __future__ import annotations

import string
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from medcap.evaluation.answering import Engine, Entry, OnResult, PredictionStore, collect, scored
from medcap.evaluation.prompting.base import PromptMethod
from medcap.evaluation.prompting.options import NO_OPTIONS, lettered, with_words
from medcap.generation.request import CandidateScores, Request
from medcap.scoring.question import Question


class LikelihoodMethod(PromptMethod):
    """What the methods by likelihood share.

    Attributes:
        end_of_turn: whether to score also that the answer ends after the candidate.
    """

    end_of_turn: ClassVar[bool]

    @property
    def file(self) -> str:  # type: ignore[override]
        """See :class:`PromptMethod`."""
        return f"predictions_{self.name}"

    @abstractmethod
    def request(self, question: Question) -> Request:
        """Return what comes before the candidates."""

    @abstractmethod
    def candidates(self, question: Question) -> list[str]:
        """Return the texts that are scored, in the order of the options."""

    def ask(self, questions: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        """See :meth:`PromptMethod.ask`; the prediction is an option's own text."""
        requests = [self.request(question) if question.options else NO_OPTIONS for question in questions]
        candidates = [self.candidates(question) for question in questions]
        # By identity: collect asks some of these very requests.
        texts_of = {id(request): texts for request, texts in zip(requests, candidates, strict=True)}

        def run(asked: list[Request], on_result: OnResult) -> None:
            engine.score(asked, [texts_of[id(request)] for request in asked], self.end_of_turn, on_result)

        def make(index: int, result: CandidateScores) -> Entry:
            return scored(questions[index].options, result)

        with store.open(self.file, {"asked": self.name}) as file:
            return collect(questions, requests, run, make, file, extra=candidates)


class OptionText(LikelihoodMethod):
    """How likely each option's words are as the whole answer to the question, which does not show them."""

    name = "option_text"
    template = "user: {image}\n{question}\nassistant: [each option and the end of the turn]"
    end_of_turn = True

    def request(self, question: Question) -> Request:
        return Request(list(question.messages), question.id)

    def candidates(self, question: Question) -> list[str]:
        return list(question.options)


class OptionLetter(LikelihoodMethod):
    """How likely each option's letter is as the first word of the answer; the options are shown with their letters."""

    name = "option_letter"
    _instruction = "Answer with the option's letter from the given choices directly."
    template = f"user: {{image}}\n{{question}}\n{{lettered options}}\n{_instruction}\nassistant: [each letter]"
    end_of_turn = False

    def request(self, question: Question) -> Request:
        options = f"\n{lettered(question.options)}\n{self._instruction}"
        return Request(with_words(question, after=options), question.id)

    def candidates(self, question: Question) -> list[str]:
        return list(string.ascii_uppercase[: len(question.options)])


class PrefixLikelihood(LikelihoodMethod):
    """OmniMedVQA's prefix-based score (Multi-Modality-Arena, MedicalEval/Prefix_based_Score/medical_llava.py, lines
    186-305: ``Question: {question} The answer is {option}.``), with the image, which the published script leaves out:
    the option whose tokens, the full stop included, have the lowest mean cross-entropy."""

    name = "omnimedvqa_prefix"
    template = "user: {image}\nQuestion: {question}\nassistant: The answer is[ each option.]"
    end_of_turn = False

    def request(self, question: Question) -> Request:
        return Request(with_words(question, before="Question: "), question.id, answer_prefix="The answer is")

    def candidates(self, question: Question) -> list[str]:
        return [f" {option}." for option in question.options]
