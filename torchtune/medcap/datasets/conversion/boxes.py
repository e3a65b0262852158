"""Marked images -> training rows: a question about each object, its boxes beside the words or in them."""

from __future__ import annotations

import argparse
import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from medcap.data.boxes.box import Size, boxes_as_json
from medcap.data.boxes.notations import NOTATIONS
from medcap.datasets.conversion.base import Converter, Examples, Folders
from medcap.datasets.conversion.example import Example, SkipRecord, Tally
from medcap.datasets.conversion.fields import safe_name
from medcap.datasets.conversion.text_boxes import UNREADABLE
from medcap.datasets.conversion.writing import MISSING
from medcap.datasets.published.box_questions import BOX, KINDS, WHERE_OBJECT, Asking, BoxQuestion
from medcap.datasets.published.marked import SHARES, AbsentObjects, MarkedImage
from medcap.errors import UserError

Source = Callable[[Tally], Iterator[MarkedImage]]


@dataclass(frozen=True, kw_only=True)
class BoxConverter(Converter):
    """Makes rows of a set of boxes. A row has, beside its turns, ``task``, ``image_size`` and, where they are known,
    ``phrase``, ``patient``, ``modality`` and ``organ``; and ``boxes``, in pixels of the image, for each ``<BOX>`` of
    the answer.

    Attributes:
        where: question for an object's place.
        knows_absent: whether an object that is not marked is known not to be there.

    Args:
        box_format: notation of boxes in the words, which then stand alone, as published sets have them; None for
            sentences with ``<BOX>`` and the row's ``boxes``.
        kinds: REC, REG, DET: see :class:`BoxQuestion`.
        question: instead of ``where``, with ``{}`` for the object.
        absent: questions an image about objects that it does not show.
        seed: chooses these.
    """

    where: ClassVar[str] = WHERE_OBJECT
    knows_absent: ClassVar[bool] = True
    box_format: str | None = None
    kinds: tuple[str, ...] = ("REC",)
    question: str | None = None
    absent: int = 0
    seed: int = 0

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--box-format",
            choices=NOTATIONS,
            help="write boxes into the answers in this notation (by default <BOX>, and 'boxes' beside the turns)",
        )
        parser.add_argument(
            "--kinds",
            nargs="+",
            type=str.upper,
            choices=KINDS,
            default=("REC",),
            help="questions: where an object is (REC), what lies in a box (REG), all objects and boxes (DET)",
        )
        parser.add_argument("--question", help=f"for REC, with {{}} for the object ({cls.where})")
        if cls.knows_absent:
            parser.add_argument(
                "--absent",
                type=whole_number,
                default=0,
                metavar="N",
                help="also ask for N objects an image that it does not show; the answer is none (0)",
            )
            parser.add_argument("--seed", type=whole_number, default=0, help="of --absent (0)")
        else:
            parser.set_defaults(absent=0, seed=0)

    @abstractmethod
    def source(self, folders: Folders) -> tuple[Source, list[str]]:
        """Find the files.

        Returns:
            The reader of the marked images, and the folders that the images may be in, at least one.
        """

    def examples(self, folders: Folders) -> Examples:
        """See :meth:`Converter.examples`."""
        if self.question is not None and "{}" not in self.question:
            raise UserError(f"--question {self.question!r} must have {{}} where the object's name goes")
        # On first use: a list of the converters needs no decoders of images.
        from medcap.data.images.reader import ImageReader
        from medcap.data.images.reference import ImageRef

        images, locations = self.source(folders)
        reader = ImageReader(location for location in locations if os.path.isdir(location))

        def read(tally: Tally) -> Iterator[tuple[str, Example]]:
            found = images(tally)
            absent = None
            if self.absent:
                found = list(found)
                absent = AbsentObjects(found, self.absent, self.seed)
            notation = self.box_format
            asking = Asking(tuple(self.kinds), self.question or self.where, notation, absent, notation is None)
            for image in found:
                try:
                    place = place_of(tuple(map(safe_name, image.names)), locations)
                except SkipRecord as reason:
                    tally.skip(str(reason), image.location)
                    continue
                path = os.path.join(*place)
                size = None
                if os.path.isfile(path):
                    try:
                        size = reader.shown_size(ImageRef(path))
                    except UserError as error:
                        tally.skip(UNREADABLE, str(error))
                        continue
                elif not folders.keep_missing or image.frame == SHARES:
                    tally.skip(MISSING, path)
                    continue
                elif image.frame is not None:
                    size = image.frame
                yield from _examples(image, asking, size, place, tally)

        return read


def _examples(
    image: MarkedImage, asking: Asking, size: Size | None, place: tuple[str, str], tally: Tally
) -> Iterator[tuple[str, Example]]:
    def leave_out(reason: str, phrase: str) -> None:
        tally.skip(reason, f"{image.location}: {phrase}")

    folder, name = place
    for question in asking.questions(image, size, leave_out):
        fields = _fields(question, image, size)
        yield image.location, Example([(question.question, question.answer)], (name,), folder, fields=fields)


def _fields(question: BoxQuestion, image: MarkedImage, size: Size | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"task": question.task, "phrase": question.phrase, "patient": image.patient, **image.meta}
    fields = {key: value for key, value in fields.items() if value}
    if size is not None:
        fields["image_size"] = list(size)
    if question.boxes is not None and (BOX in question.answer or not question.boxes):
        fields["boxes"] = boxes_as_json(question.boxes, size)
    return fields


def place_of(names: tuple[str, ...], locations: list[str]) -> tuple[str, str]:
    """Return the folder and the name that the image has; the first of each if it is nowhere."""
    for location in locations:
        for name in names:
            if os.path.isfile(os.path.join(location, name)):
                return location, name
    return locations[0], names[0]


def whole_number(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 0 on")
    return int(text)
