"""The question with its image, as in the training records."""

from __future__ import annotations

from collections.abc import Sequence

from medcap.evaluation.answering import Engine, Entry, PredictionStore, collect, generated
from medcap.evaluation.prompting.base import PromptMethod
from medcap.generation.request import Request
from medcap.scoring.question import Question


class Direct(PromptMethod):
    """Ask the question unchanged."""

    name = "direct"
    file = "predictions"
    template = "user: {image}\n{question}\nassistant: "

    def ask(self, questions: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        requests = [Request(list(question.messages), question.id) for question in questions]
        with store.open(self.file, {"asked": self.name}) as file:
            return collect(questions, requests, engine.generate, lambda _, result: generated(result), file)

    def last_request(self, question: Question, entry: Entry) -> Request | None:
        return Request(list(question.messages), question.id)
