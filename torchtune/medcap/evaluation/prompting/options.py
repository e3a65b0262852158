"""Multiple-choice questions whose options are shown, or to whose options a free answer is mapped."""

from __future__ import annotations

import string
from collections.abc import Sequence

from torchtune.data import Message

from medcap.evaluation.answering import Engine, Entry, PredictionStore, collect, generated
from medcap.evaluation.prompting.base import PromptMethod
from medcap.generation.prompt import user_message
from medcap.generation.request import Generation, Request
from medcap.scoring.question import Question
from medcap.scoring.replies.final_reply import final_reply

NO_OPTIONS = "the row has no options"
MAPPING_LIMIT = 20


def with_words(question: Question, before: str = "", after: str = "") -> list[Message]:
    """Return a question's turns with further words around those of the last one, every image in its place.

    Args:
        question: its last turn may have images before, between and after its words.
        before: text before the first of its words.
        after: text after the last of them.

    Returns:
        The turns.
    """
    *earlier, last = question.messages
    parts = [dict(part) for part in last.content]
    positions = [position for position, part in enumerate(parts) if part["type"] == "text"]
    if not positions:
        positions = [len(parts)]
        parts.append({"type": "text", "content": ""})
    first, end = parts[positions[0]], parts[positions[-1]]
    # Words after an image begin on a line of their own, as in the training records.
    end["content"] = end["content"].rstrip()
    first["content"] = ("\n" if positions[0] else "") + before + first["content"].lstrip()
    end["content"] += after
    return [*earlier, Message(role="user", content=parts, masked=True)]


def lettered(options: Sequence[str]) -> str:
    """Write ``A. first`` and so on, a line each."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False))


class ListedOptions(PromptMethod):
    """OmniMedVQA's question answering prompt (Multi-Modality-Arena at ddd9465, MedicalEval/Question-answering_Score/
    task_datasets/medical_datasets.py, line 20): the options in the question, the answer in words."""

    name = "listed_options"
    file = "predictions_listed_options"
    _instruction = (
        "Here are {number} candidate answers:{options} Only return what you think is the correct answer from the"
        " candidate answers, do not return any other irrelevant text!"
    )
    template = f"user: {{image}}\n{{question}}{_instruction}\nassistant: "

    def ask(self, questions: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        requests = [self.last_request(question, {}) or NO_OPTIONS for question in questions]
        with store.open(self.file, {"asked": self.name}) as file:
            return collect(questions, requests, engine.generate, lambda _, result: generated(result), file)

    def last_request(self, question: Question, entry: Entry) -> Request | None:
        if not question.options:
            return None
        options = list(question.options)
        instruction = self._instruction.format(number=len(options), options=options)
        return Request(with_words(question, after=instruction), question.id)


class LetteredOptions(PromptMethod):
    """The question, its options by letter, and the instruction of MedEvalKit (``utils/question_formats.py``) and others
    to answer with a letter."""

    name = "lettered_options"
    file = "predictions_lettered_options"
    _instruction = "Answer with the option's letter from the given choices directly."
    template = f"user: {{image}}\n{{question}}\n{{lettered options}}\n{_instruction}\nassistant: "

    def ask(self, questions: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        requests = [self.last_request(question, {}) or NO_OPTIONS for question in questions]
        with store.open(self.file, {"asked": self.name}) as file:
            return collect(questions, requests, engine.generate, lambda _, result: generated(result), file)

    def last_request(self, question: Question, entry: Entry) -> Request | None:
        if not question.options:
            return None
        return Request(with_words(question, after=f"\n{lettered(question.options)}\n{self._instruction}"), question.id)


class MappedOption(PromptMethod):
    """A free answer, then the same language model says which option it means (custom_generate_func.py, lines 301-330,
    of myeongkyunkang/medcap at c8910f0): text alone and without adapters, the reply is a letter. A model's
    reasoning is not shown to it.

    Args:
        free: how the free answer is asked for.
    """

    name = "mapped_option"
    file = "predictions_mapped_option"
    _instruction = (
        "Based on the question and our answer, respond with only the letter of the correct option from the given"
        " choices."
    )

    def __init__(self, free: PromptMethod) -> None:
        self.free = free
        mapping = f"user: Question: {{question}}\nOur answer: {{answer}}\n{{lettered options}}\n\n{self._instruction}"
        self.template = f"{free.template}\n---\n{mapping}\nassistant: "

    def ask(self, questions: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        answers = self.free.ask(questions, engine, store)
        requests = [
            self._request(question, answer, engine.adapters)
            for question, answer in zip(questions, answers, strict=True)
        ]

        def make(index: int, result: Generation) -> Entry:
            answer = answers[index]
            # The prompt of the free answer is shown by the description, where its method has one.
            said = {"description": answer["description"]} if "description" in answer else {}
            return {**generated(result), "free_answer": answer["prediction"], **said}

        with store.open(self.file, {"asked": self.name, "free": self.free.name}) as file:
            return collect(questions, requests, engine.generate, make, file)

    def _request(self, question: Question, answer: Entry, adapters: tuple[str, ...]) -> Request | str:
        if not question.options:
            return NO_OPTIONS
        if answer["error"]:
            return f"there is no free answer to map: {answer['error']}"
        said = final_reply(answer["prediction"])
        if answer["prediction"].strip() and not said:
            return "there is no free answer to map: it ends within its reasoning"
        lines = [f"Question: {question.text}", f"Our answer: {said}", lettered(question.options), ""]
        message = user_message(text="\n".join([*lines, self._instruction]))
        return Request([message], question.id, MAPPING_LIMIT, without=adapters)
