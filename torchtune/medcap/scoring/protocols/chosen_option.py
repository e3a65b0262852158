"""Options chosen by likelihood: nothing to parse, an option is the reference or it is not."""

from __future__ import annotations

from medcap.scoring.protocols.multiple_choice import MultipleChoice
from medcap.scoring.question import Answer


class ChosenOption(MultipleChoice):
    """The answer is the text of the option that the model finds most likely.

    Args:
        name: of the protocol.
        description: how the option was chosen.
    """

    headline = over_rows = "accuracy"
    over_modalities = "accuracy_by_modality"

    def __init__(self, name: str, description: str) -> None:
        self.name = name  # type: ignore[misc]
        self.description = description  # type: ignore[misc]

    def choose(self, answer: Answer) -> tuple[str | None, bool]:
        """See :class:`MultipleChoice`."""
        return answer.prediction or None, bool(answer.prediction) and answer.prediction == answer.question.references[0]
