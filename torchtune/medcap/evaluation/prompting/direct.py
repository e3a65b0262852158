"""The question with its image, as in the training records."""

from __future__ import annotations

from collections.abc import Sequence

from medcap.evaluation.answering import Engine, Entry, PredictionStore, collect
from medcap.evaluation.box_notation import entry_of_answer
from medcap.evaluation.prompting.base import PromptMethod
from medcap.generation.request import Generation, Request
from medcap.scoring.question import Question


class Direct(PromptMethod):
    """Ask the question unchanged."""

    name = "direct"
    file = "predictions"
    template = "user: {image}\n{question}\nassistant: "

    def ask(self, questions: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        requests = [Request(list(question.messages), question.id) for question in questions]

        def entry(index: int, generation: Generation) -> Entry:
            return entry_of_answer(questions[index], generation, engine.box_style, engine.size_of)

        with store.open(self.file, {"asked": self.name}) as file:
            return collect(questions, requests, engine.generate, entry, file)

    def last_request(self, question: Question, entry: Entry) -> Request | None:
        return Request(list(question.messages), question.id)
