"""What is asked, and what is scored: a benchmark's rows and the answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchtune.data import Message

# The fields that tables split the scores by.
GROUPS = ("modality", "question_type", "answer_type", "organ")


@dataclass(frozen=True)
class Row:
    """One thing to ask the model.

    Attributes:
        id: unique in its benchmark.
        messages: the turns before the answer; image parts hold paths that an ``ImageReader`` resolved.
        references: accepted answers or captions, at least one.
        image: path of the first image; None where there is none.
        options: of a multiple-choice question, in their order, without empty ones.
        answer_type: ``OPEN``, ``CLOSED``, or empty where the benchmark does not say.
        meta: further text fields, such as modality, question_type, organ.
        problem: why this row cannot be asked; it then counts as a failure, in every denominator.
    """

    id: str
    messages: list[Message]
    references: list[str]
    image: Path | None = None
    options: tuple[str, ...] = ()
    answer_type: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None

    @property
    def question(self) -> str:
        """The words of the last turn."""
        return message_text(self.messages[-1]) if self.messages else ""

    @property
    def images(self) -> list[str]:
        """The image paths in the order of the turns."""
        parts = [part for message in self.messages for part in message.content]
        return [str(part["content"]) for part in parts if part["type"] == "image"]

    @property
    def groups(self) -> dict[str, str]:
        """Its value in each of ``GROUPS`` that it has."""
        values = {**self.meta, "answer_type": self.answer_type}
        return {name: values[name] for name in GROUPS if values.get(name)}


@dataclass(frozen=True)
class Answer:
    """One answer, of any model, ready to be scored.

    Attributes:
        question_id: unique in its file.
        question: the words that were asked.
        references: accepted answers, at least one; a protocol that knows only one takes the first.
        prediction: what was answered; "" where there is no answer, which is a failure.
        options: of a multiple-choice question, in their order, without empty ones.
        answer_type: ``OPEN``, ``CLOSED`` or empty.
        groups: name -> value that tables split the scores by; see ``GROUPS``.
        image: as the row names it; empty where there is none.
        columns: the options with "" for each column that holds none; empty where every column holds one.
    """

    question_id: str
    question: str
    references: tuple[str, ...]
    prediction: str
    options: tuple[str, ...] = ()
    answer_type: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    columns: tuple[str, ...] = ()

    @property
    def lettered(self) -> tuple[str, ...]:
        """The options by their letter, A first; "" where a letter has none."""
        return self.columns or self.options

    @property
    def failed(self) -> bool:
        """Whether there is no answer."""
        return not self.prediction.strip()


def answer_to(row: Row, prediction: str) -> Answer:
    """Put a row and what was answered together.

    Args:
        row: what was asked.
        prediction: "" where there is no answer.

    Returns:
        What protocols score.
    """
    return Answer(
        row.id,
        row.question,
        tuple(row.references),
        prediction,
        row.options,
        row.answer_type,
        row.groups,
        str(row.image or ""),
    )


def message_text(message: Message) -> str:
    """Return a turn's words without its images, stripped."""
    return "".join(part["content"] for part in message.content if part["type"] == "text").strip()
