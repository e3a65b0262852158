"""Multiple-choice questions whose options are shown, or to whose options a free answer is mapped."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from medcap.evaluation.answering import Engine, Entry, PredictionStore, collect, generated
from medcap.evaluation.prompting.base import Way
from medcap.generation.prompt import user_message
from medcap.generation.request import Request
from medcap.scoring.question import Question
from medcap.scoring.replies.final_reply import final_reply

NO_OPTIONS = "the row has no options"
MAPPING_LIMIT = 20


def with_text(row: Question, text: str) -> list[Any]:
    """The row's turns with other words in the last one, its images kept."""
    image = row.images[0] if row.images else None
    return [*row.messages[:-1], user_message(image, text)]


def lettered(options: Sequence[str]) -> str:
    """``A. first`` and so on, a line each."""
    return "\n".join(f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False))


class ListedOptions(Way):
    """OmniMedVQA's question answering prompt (Multi-Modality-Arena at ddd9465, MedicalEval/Question-answering_Score/
    task_datasets/medical_datasets.py, line 20): the options in the question, the answer in words."""

    name = "listed_options"
    file = "predictions_listed_options"
    _instruction = (
        "Here are {number} candidate answers:{options} Only return what you think is the correct answer from the"
        " candidate answers, do not return any other irrelevant text!"
    )
    template = f"user: {{image}}\n{{question}}{_instruction}\nassistant: "

    def ask(self, rows: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        """See :meth:`Way.ask`."""
        requests = [self.last_request(row, {}) or NO_OPTIONS for row in rows]
        with store.open(self.file, {"asked": self.name}) as file:
            return collect(rows, requests, engine.generate, lambda _, result: generated(result), file)

    def last_request(self, row: Question, entry: Entry) -> Request | None:
        """See :meth:`Way.last_request`."""
        if not row.options:
            return None
        options = list(row.options)
        text = row.text + self._instruction.format(number=len(options), options=options)
        return Request(with_text(row, text), row.id)


class MappedOption(Way):
    """A free answer, then the same language model says which option it means (custom_generate_func.py, lines 301-330,
    of myeongkyunkang/medcap at c8910f0): text alone, the reply is a letter. A model's reasoning is not shown to it.

    Args:
        free: how the free answer is asked for.
    """

    name = "mapped_option"
    file = "predictions_mapped_option"
    _instruction = (
        "Based on the question and our answer, respond with only the letter of the correct option from the given"
        " choices."
    )

    def __init__(self, free: Way) -> None:
        self.free = free
        mapping = f"user: Question: {{question}}\nOur answer: {{answer}}\n{{lettered options}}\n\n{self._instruction}"
        self.template = f"{free.template}\n---\n{mapping}\nassistant: "

    def ask(self, rows: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        """See :meth:`Way.ask`."""
        answers = self.free.ask(rows, engine, store)
        requests = [self._request(row, answer) for row, answer in zip(rows, answers, strict=True)]

        def make(index: int, result: Any) -> Entry:
            answer = answers[index]
            # What the free answer was given to is told by the description, where its way has one.
            said = {"description": answer["description"]} if "description" in answer else {}
            return {**generated(result), "free_answer": answer["prediction"], **said}

        with store.open(self.file, {"asked": self.name, "free": self.free.name}) as file:
            return collect(rows, requests, engine.generate, make, file)

    def _request(self, row: Question, answer: Entry) -> Request | str:
        if not row.options:
            return NO_OPTIONS
        if answer["error"]:
            return f"there is no free answer to map: {answer['error']}"
        said = final_reply(answer["prediction"])
        if answer["prediction"].strip() and not said:
            return "there is no free answer to map: it ends within its reasoning"
        lines = [f"Question: {row.text}", f"Our answer: {said}", lettered(row.options), ""]
        return Request([user_message(text="\n".join([*lines, self._instruction]))], row.id, MAPPING_LIMIT)
