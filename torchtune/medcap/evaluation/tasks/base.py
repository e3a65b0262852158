"""What a task is: rows with questions and references from a file, and a score for the answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from torchtune.data import Message

from medcap.data.images import ImageReader
from medcap.errors import UserError


@dataclass(frozen=True)
class Row:
    """One thing to ask the model.

    Attributes:
        id: unique in its file.
        messages: the turns before the answer; image parts hold paths that an ``ImageReader`` resolved.
        references: accepted answers or captions, at least one.
        image: path of the first image; None where there is none.
        meta: further text fields, such as modality and question_type.
        problem: why this row cannot be asked; it then counts as a failure, in every denominator.
    """

    id: str
    messages: list[Message]
    references: list[str]
    image: Path | None = None
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


class Task(ABC):
    """A test that is run by ``test_<name>=true``.

    Attributes:
        name: the task's name, also that of its result folder.
        protocol: name of the rule by which answers are scored, written beside every score.
        protocol_description: that rule in a sentence.
        headline: the score that stands for the task; each row's scores have a number of that name.
        marks_rows: whether ``headline`` of a row is 1 for right and 0 for wrong.
    """

    name: ClassVar[str]
    protocol: ClassVar[str]
    protocol_description: ClassVar[str]
    headline: ClassVar[str]
    marks_rows: ClassVar[bool] = False

    @abstractmethod
    def load(
        self, source: str | Path, conversation_style: str = "auto", image_roots: Sequence[str | Path] | None = None
    ) -> list[Row]:
        """Read the rows of a data file.

        Args:
            source: the data file.
            conversation_style: layout of chat rows; see ``medcap.data.conversations.STYLES``.
            image_roots: folders that images may lie in; by default the file's own and the working directory.

        Returns:
            The rows in the order of the file. A row whose image is missing has a ``problem``.

        Raises:
            UserError: if the file is missing, a row has no question or reference (the message names file and row),
                or no row at all can be asked.
        """

    @abstractmethod
    def score(self, rows: Sequence[Row], predictions: Sequence[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Score answers.

        Args:
            rows: what was asked.
            predictions: the answers in the same order; "" where there is none.

        Returns:
            The metrics (``scores``: name -> number, ``intervals``: name -> interval, ``tables``: name -> list of
            rows, ``notices``: list of lines) and one dictionary of scores for each row.
        """


def message_text(message: Message) -> str:
    """A turn's words without its images, stripped."""
    return "".join(part["content"] for part in message.content if part["type"] == "text").strip()


def image_reader(source: str | Path, image_roots: Sequence[str | Path] | None = None) -> ImageReader:
    """The reader of a data file's images.

    Args:
        source: the data file.
        image_roots: folders that images may lie in; by default the file's own and the working directory.

    Returns:
        A reader with these roots.
    """
    return ImageReader(image_roots or [Path(source).parent, Path.cwd()])


class ImageFinder:
    """Resolves the images of rows and remembers, instead of stopping, what was wrong with the last row's.

    Args:
        reader: resolves paths.
    """

    def __init__(self, reader: ImageReader) -> None:
        self.reader = reader
        self.problem: str | None = None

    def __call__(self, path: str, folder: str | None = None) -> Path:
        """Resolve ``path``; where that fails, set ``problem`` and return the path as it is."""
        try:
            return self.reader.resolve(path, folder)
        except UserError as error:
            self.problem = str(error)
            return Path(folder or "", path)


def checked_rows(rows: list[Row], source: str | Path) -> list[Row]:
    """Make ids unique (the second row of one id gets ``id#2``) and check that there is something to ask.

    Raises:
        UserError: if there are no rows, or not one of them can be asked.
    """
    if not rows:
        raise UserError(f"data file {source} holds no rows")
    if all(row.problem for row in rows):
        raise UserError(f"{source}: none of the {len(rows)} rows can be asked; the first one: {rows[0].problem}")
    seen: dict[str, int] = {}
    result = []
    for row in rows:
        seen[row.id] = count = seen.get(row.id, 0) + 1
        result.append(row if count == 1 else replace(row, id=f"{row.id}#{count}"))
    return result
