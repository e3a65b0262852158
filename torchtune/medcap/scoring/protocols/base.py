"""What a protocol is: a published or strict rule that turns answers into numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar

from medcap.scoring.question import Answer


@dataclass
class ProtocolScores:
    """A protocol's result for answers.

    Attributes:
        scores: dotted name -> number, ``open.recall`` or ``accuracy``; 0..1 but for CIDEr. A score whose
            denominator is empty is absent.
        intervals: intervals under the same names, ``Interval.as_dict()``; absent where there is none.
        rows: a flat dictionary a row, in the order of the answers: ``question_id``, the values that the means are
            made of under their dotted names, ``correct`` (True or False, None where the protocol does not decide
            it) and, for the tables, ``value`` (a number, None where the row is not in the headline's denominator).
        counts: ``n``, ``failures`` and where the rule divides them ``open.n``, ``closed.n``.
        notices: what a reader must know.
        clustered: whether intervals draw rows by their question's ``cluster``, its patient or image.
    """

    scores: dict[str, float]
    intervals: dict[str, dict[str, float | int]]
    rows: list[dict[str, Any]]
    counts: dict[str, int]
    notices: list[str] = field(default_factory=list)
    clustered: bool = False


class Prompt(StrEnum):
    """How a protocol needs its questions to be asked; ``medcap.evaluation.prompting`` has the method of each."""

    FREE = "free"  # as the user chose, by vqa_type
    LISTED_OPTIONS = "listed_options"
    MAPPED_OPTION = "mapped_option"
    OPTION_TEXT = "option_text"
    OPTION_LETTER = "option_letter"
    OMNIMEDVQA_PREFIX = "omnimedvqa_prefix"


class Protocol(ABC):
    """A rule for scoring.

    Attributes:
        name: name as users type it.
        prompt: how its questions are asked.
        field: field of a predictions file that is scored.
        takes_minutes: whether scoring does, however few the answers.
        scores_boxes: whether it compares boxes.
        scores_masks: whether it compares masks.
        description: the rule in a sentence, without a full stop.
        headline: dotted name of the score that stands for it; ``value`` of a row is its part of it.
        share: whether the headline is a share of 1.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    headline: ClassVar[str]
    share: ClassVar[bool] = True
    prompt: ClassVar[Prompt] = Prompt.FREE
    field: ClassVar[str] = "prediction"
    takes_minutes: ClassVar[bool] = False
    scores_boxes: ClassVar[bool] = False
    scores_masks: ClassVar[bool] = False

    def compares(self, kind: str) -> bool:
        """Return whether it compares ``boxes`` or ``masks``."""
        return {"boxes": self.scores_boxes, "masks": self.scores_masks}[kind]

    def check_ready(self) -> None:  # noqa: B027
        """Check that what the rule needs is installed, before anything is asked.

        Raises:
            UserError: if it is not; the message says how to install it.
        """

    @abstractmethod
    def score(self, answers: Sequence[Answer]) -> ProtocolScores:
        """Score answers.

        Args:
            answers: all of a benchmark's, failures included.

        Returns:
            The scores; a failure is wrong and in every denominator that its row belongs to.

        Raises:
            UserError: if there are no answers, or none has what the rule needs (``answer_type``, ``options``).
        """


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Dotted names as nested dictionaries: ``{"open.f1": 1}`` -> ``{"open": {"f1": 1}}``."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, leaf = name.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[leaf] = value
    return tree
