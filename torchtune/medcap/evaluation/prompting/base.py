"""What a prompt method is: how questions become requests, and what comes back becomes answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

from medcap.evaluation.answering import Engine, Entry, PredictionStore
from medcap.generation.request import Request
from medcap.scoring.question import Question


class PromptMethod(ABC):
    """A way to ask.

    Attributes:
        name: name as it is in files and settings.
        file: name of its predictions file, without suffix.
        template: the turns that are asked, with ``{question}`` and similar marks for a question's words; its SHA-256
            is the prompt hash that is written next to every score.
    """

    name: ClassVar[str]
    file: str
    template: str

    @abstractmethod
    def ask(self, questions: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        """Answer questions; see :func:`medcap.evaluation.answering.collect` for what is returned and raised."""

    def last_request(self, question: Question, entry: Entry) -> Request | None:
        """Return the request that led to an answer, for tables that show it; None if there is none."""
        return None
