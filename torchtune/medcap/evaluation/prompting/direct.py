"""The question beside its image, as it stands in the training records."""

from __future__ import annotations

from collections.abc import Sequence

from medcap.evaluation.answering import Engine, Entry, PredictionStore, collect, generated
from medcap.evaluation.prompting.base import Way
from medcap.generation.request import Request
from medcap.scoring.question import Question


class Direct(Way):
    """Ask what the row asks."""

    name = "direct"
    file = "predictions"
    template = "user: {image}\n{question}\nassistant: "

    def ask(self, rows: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        """See :meth:`Way.ask`."""
        requests = [Request(row.messages, row.id) for row in rows]
        with store.open(self.file, {"asked": self.name}) as file:
            return collect(rows, requests, engine.generate, lambda _, result: generated(result), file)

    def last_request(self, row: Question, entry: Entry) -> Request | None:
        """See :meth:`Way.last_request`."""
        return Request(row.messages, row.id)
