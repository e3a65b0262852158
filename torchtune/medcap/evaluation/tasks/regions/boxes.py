"""What tasks that ask for boxes share: their options, the sizes of images, and questions with their boxes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from medcap.data.boxes.box import Box, Size
from medcap.datasets.published.reading import Tally
from medcap.errors import UserError
from medcap.evaluation.tasks.base import ImageFinder, LoadOptions
from medcap.scoring.question import Question

if TYPE_CHECKING:
    from medcap.data.images.reference import ImageRef


@dataclass(frozen=True)
class BoxOptions(LoadOptions):
    """Which part of a benchmark of boxes is read.

    Attributes:
        split: ``validation`` or ``test``; a benchmark of one part ignores it.
        subtasks: the kinds of questions that are asked, one or several; None for all.
        absent: questions an image about objects that it does not show, where the data say what an image shows.
    """

    split: str = "test"
    subtasks: str | Sequence[str] | None = None
    absent: int = 0

    @cached_property
    def wanted(self) -> tuple[str, ...] | None:
        """The subtasks by name; None for all."""
        if self.subtasks is None:
            return None
        names = self.subtasks.split(",") if isinstance(self.subtasks, str) else self.subtasks
        return tuple(str(name).strip() for name in names)


DEFAULT_BOXES = BoxOptions()
UNUSABLE = "(unusable boxes)"  # the reference of a question whose boxes cannot be used


def chosen(options: BoxOptions, known: Sequence[str]) -> tuple[str, ...]:
    """Return the subtasks to ask, in the benchmark's order.

    Raises:
        UserError: if there is none of a name.
    """
    if options.wanted is None:
        return tuple(known)
    names = {name.lower(): name for name in known}
    for name in options.wanted:
        if name.lower() not in names:
            raise UserError(f"subtasks: there is no {name!r}; there are {', '.join(known)}")
    return tuple(name for name in known if name.lower() in {wanted.lower() for wanted in options.wanted})


class Sizes:
    """Reads the sizes of images from their headers, each image once.

    Args:
        find: resolved the images.
    """

    def __init__(self, find: ImageFinder) -> None:
        self._reader = find.reader
        self._known: dict[ImageRef, Size | UserError] = {}

    def __call__(self, image: ImageRef) -> Size:
        """Return width and height in pixels.

        Raises:
            UserError: if the header cannot be read.
        """
        if image not in self._known:
            try:
                self._known[image] = self._reader.shown_size(image)
            except UserError as error:
                self._known[image] = error
        found = self._known[image]
        if isinstance(found, UserError):
            raise found
        return found


def with_boxes(question: Question, boxes: Sequence[Box] | None, size: Size) -> Question:
    """Return a question with its boxes and its image's size.

    Args:
        question: whose meta may hold task and phrase.
        boxes: in shares of the image; empty where the object is absent, None where the file's answer names none that
            could be read, which is the question's problem.
        size: of the image.
    """
    if boxes is None:
        return replace(question, image_size=size, problem=question.problem or "the file's answer holds no box")
    return replace(question, boxes=tuple(boxes), image_size=size)


def text_meta(meta: Mapping[str, Any]) -> dict[str, str]:
    """Return the fields that have words."""
    return {key: str(value) for key, value in meta.items() if value}


def skipped_notices(tally: Tally) -> list[str]:
    """Say what of a benchmark could not be read, a line for each reason."""
    return [
        f"{number:,} left out: {reason} (the first: {tally.first[reason]})"
        for reason, number in tally.skipped.most_common()
    ]
