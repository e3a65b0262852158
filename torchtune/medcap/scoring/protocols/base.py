"""What a protocol is: a published or strict rule that turns answers into numbers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Self

from medcap.errors import UserError
from medcap.scoring.question import Answer


@dataclass
class ProtocolScores:
    """A protocol's result for answers.

    Attributes:
        scores: dotted name -> number, ``open.recall`` or ``accuracy``; 0..1 but for CIDEr. A score whose
            denominator is empty is absent.
        intervals: intervals under the same names, ``Interval.as_dict()``; absent where there is none. One without
            ends, of one row or cluster, is taken out and named in a notice.
        rows: a flat dictionary a row, in the order of the answers: ``question_id``, the values that the means are
            made of under their dotted names, ``correct`` (True or False, None where the protocol does not decide
            it) and, for the tables, ``value`` (a number, None where the row is not in the headline's denominator).
        counts: ``n``, ``failures`` and where the rule divides them ``open.n``, ``closed.n``.
        notices: what a reader must know.
        clustered: whether intervals draw rows by their question's ``cluster``, its patient or image.
    """

    scores: dict[str, float]
    intervals: dict[str, dict[str, Any]]
    rows: list[dict[str, Any]]
    counts: dict[str, int]
    notices: list[str] = field(default_factory=list)
    clustered: bool = False

    def __post_init__(self) -> None:
        """Take out intervals without ends."""
        self.drop_empty_intervals()

    def drop_empty_intervals(self) -> None:
        """Take out intervals without ends and say why; to be called again where intervals are added later."""
        names = [name for name, interval in self.intervals.items() if interval["low"] is None]
        if names:
            self.intervals = {name: own for name, own in self.intervals.items() if own["low"] is not None}
            why = "their rows are of one image or patient" if self.clustered else "they have one row"
            self.notices = [*self.notices, f"no interval, because {why}: {_few(names)}"]


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


class Prompt(StrEnum):
    """How a protocol needs its questions to be asked; ``medcap.evaluation.prompting`` has the method of each."""

    FREE = "free"  # as the user chose, by vqa_type
    LISTED_OPTIONS = "listed_options"
    LETTERED_OPTIONS = "lettered_options"
    MAPPED_OPTION = "mapped_option"
    OPTION_TEXT = "option_text"
    OPTION_LETTER = "option_letter"
    OMNIMEDVQA_PREFIX = "omnimedvqa_prefix"


class Protocol(ABC):
    """A rule for scoring.

    Attributes:
        name: name as users type it, of one of the ``variants`` with that behind an ``@``.
        option_names: its options, which are texts.
        variants: word behind the ``@`` of a name -> the options that it stands for.
        prompt: how its questions are asked.
        field: field of a predictions file that is scored.
        takes_minutes: whether scoring does, however few the answers.
        scores_boxes: whether it compares boxes.
        scores_masks: whether it compares masks.
        description: the rule in a sentence, without a full stop.
        headline: dotted name of the score that stands for it; ``value`` of a row is its part of it.
        share: whether the headline is a share of 1.
    """

    name: str
    description: str
    option_names: ClassVar[tuple[str, ...]] = ()
    variants: ClassVar[Mapping[str, Mapping[str, str]]] = {}
    headline: ClassVar[str]
    share: ClassVar[bool] = True
    prompt: Prompt = Prompt.FREE
    field: ClassVar[str] = "prediction"
    takes_minutes: ClassVar[bool] = False
    scores_boxes: ClassVar[bool] = False
    scores_masks: ClassVar[bool] = False

    @classmethod
    def of_options(cls, options: Mapping[str, str]) -> Self:
        """Make the protocol from options as users type them.

        Args:
            options: name -> value.

        Raises:
            UserError: if it has no such option, or a value is not one of those that the option has.
        """
        unknown = [name for name in options if name not in cls.option_names]
        if unknown:
            has = f"its options are {', '.join(cls.option_names)}" if cls.option_names else "it has no options"
            raise UserError(f"protocol {cls.name}: there is no option {unknown[0]!r}; {has}")
        return cls(**options)

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
