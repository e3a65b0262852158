"""Outlined images -> rows for training and test: a question about each object, its mask beside the words."""

from __future__ import annotations

import argparse
import os
import random
from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from medcap.data.boxes.box import Size
from medcap.datasets.conversion.base import Converter, Examples, Folders, Output
from medcap.datasets.conversion.boxes import place_of, whole_number
from medcap.datasets.conversion.example import Example, SkipRecord, Tally
from medcap.datasets.conversion.fields import safe_name
from medcap.datasets.conversion.text_boxes import UNREADABLE
from medcap.datasets.conversion.writing import MISSING
from medcap.datasets.published.marked import AbsentObjects
from medcap.datasets.published.mask_questions import ABSENT_ANSWERS, KINDS, PHRASINGS, Asking, MaskQuestion
from medcap.datasets.published.outlined import OutlinedImage
from medcap.errors import UserError

OTHER_SIZE = "the masks have another size than their image"
TEST_BY = ("patient", "image", "object")
Source = Callable[[Tally], Iterator[OutlinedImage]]


@dataclass(frozen=True, kw_only=True)
class MaskConverter(Converter):
    """Makes rows of a set of masks, for training and for ``test_pixel_grounding``.

    A row has, beside its turns, ``task``, ``phrase``, ``image_size`` and, where they are known, ``patient`` and
    ``modality``; and ``masks``, as run-lengths, for each ``<SEG>`` of the answer.

    Attributes:
        knows_absent: whether an object without a mask is known not to be there.

    Args:
        kinds: SEG, ALL: see :class:`MaskQuestion`.
        question: instead of ``PHRASINGS``, with ``{}`` for the object.
        absent: questions an image about objects that it does not show.
        absent_answer: see :class:`Asking`.
        seed: chooses these, the wording, and what is kept for the test.
        test_share: share of the patients, images or objects that go to a second file, for the test; 0 for none.
        test_by: what is divided: patients (an image without one is its own), images, or the objects of each image.
    """

    knows_absent: ClassVar[bool] = True
    kinds: tuple[str, ...] = ("SEG",)
    question: tuple[str, ...] | None = None
    absent: int = 0
    absent_answer: str = "words"
    seed: int = 0
    test_share: float = 0.0
    test_by: str = "patient"

    @classmethod
    def add_arguments(cls, parser: argparse.ArgumentParser) -> None:
        parser.add_argument(
            "--kinds",
            nargs="+",
            type=str.upper,
            choices=KINDS,
            default=("SEG",),
            help="questions: the mask of one object (SEG), those of all objects of an image (ALL)",
        )
        parser.add_argument(
            "--question", nargs="+", help=f"wordings, with {{}} for the object (five, such as {PHRASINGS[0]!r})"
        )
        if cls.knows_absent:
            parser.add_argument(
                "--absent",
                type=whole_number,
                default=0,
                metavar="N",
                help="also ask for N objects an image that it does not show (0)",
            )
            parser.add_argument(
                "--absent-answer",
                choices=ABSENT_ANSWERS,
                default="words",
                help="of these: 'There is no ...' (words), or <SEG> without a pixel (mask)",
            )
        else:
            parser.set_defaults(absent=0, absent_answer="words")
        parser.add_argument("--seed", type=whole_number, default=0, help="of everything that is chosen (0)")
        parser.add_argument(
            "--test-share", type=_share, default=0.0, metavar="X", help="share that goes to a file for the test (0)"
        )
        parser.add_argument(
            "--test-by", choices=TEST_BY, default="patient", help="what is divided for --test-share (patient)"
        )

    @abstractmethod
    def source(self, folders: Folders) -> tuple[Source, list[str]]:
        """Find the files.

        Returns:
            The reader of the outlined images, and the folders that the images may be in, at least one.
        """

    def outputs(self, folders: Folders) -> list[Output]:
        """Return the file, or the one for training and the one for the test."""
        name = self.output_name()
        if not self.test_share:
            return [Output(name, self.examples(folders))]
        stem = name.removesuffix(".jsonl").removesuffix("_train")
        return [
            Output(f"{stem}_{part}.jsonl", self._examples(folders, is_test))
            for part, is_test in (("train", False), ("test", True))
        ]

    def examples(self, folders: Folders) -> Examples:
        """See :meth:`Converter.examples`."""
        return self._examples(folders, None)

    def _examples(self, folders: Folders, is_test: bool | None) -> Examples:
        for question in self.question or ():
            if "{}" not in question:
                raise UserError(f"--question {question!r} must have {{}} where the object's name goes")
        # On first use: a list of the converters needs no decoders of images.
        from medcap.data.images.reader import ImageReader
        from medcap.data.images.reference import ImageRef

        images, locations = self.source(folders)

        def read(tally: Tally) -> Iterator[tuple[str, Example]]:
            found = images(tally)
            absent = None
            if self.absent or is_test is not None:
                found = list(found)
            if self.absent:
                absent = AbsentObjects([it.image for it in found], self.absent, self.seed)
            if is_test is not None:
                found = self._part(list(found), is_test)
            asking = Asking(self.kinds, self.question or PHRASINGS, absent, self.absent_answer, self.seed)
            reader = ImageReader(location for location in locations if os.path.isdir(location))
            for it in found:
                try:
                    folder, name = place_of(tuple(map(safe_name, it.image.names)), locations)
                except SkipRecord as reason:
                    tally.skip(str(reason), it.image.location)
                    continue
                path = os.path.join(folder, name)
                sizes = {(shape.size[1], shape.size[0]) for shape in it.masks.values()}
                size = next(iter(sizes), None)
                if os.path.isfile(path):
                    try:
                        size = reader.shown_size(ImageRef(path))
                    except UserError as error:
                        tally.skip(UNREADABLE, str(error))
                        continue
                elif not folders.keep_missing:
                    tally.skip(MISSING, path)
                    continue
                if sizes - {size}:
                    tally.skip(OTHER_SIZE, it.image.location)
                    continue
                for question in asking.questions(it):
                    fields = _fields(question, it, size)
                    turns = [(question.question, question.answer)]
                    yield it.image.location, Example(turns, (name,), folder, fields=fields)

        return read

    def _part(self, images: list[OutlinedImage], is_test: bool) -> list[OutlinedImage]:
        """Return the images, or their objects, of one of the two files."""
        keys = dict.fromkeys(key for it in images for key in self._keys(it))
        chosen = sorted(keys, key=lambda key: random.Random(f"{self.seed} {key}").random())
        test = set(chosen[: max(1, round(self.test_share * len(chosen)))])
        if self.test_by != "object":
            return [it for it in images if (self._keys(it)[0] in test) == is_test]
        kept = []
        for it in images:
            named = zip(self._keys(it), it.masks.items(), strict=True)
            masks = dict(item for key, item in named if (key in test) == is_test)
            if masks:
                kept.append(replace(it, masks=masks))
        return kept

    def _keys(self, it: OutlinedImage) -> list[str]:
        """Return what is drawn for the test: the patient, the image, or each object of it."""
        name = it.image.names[0]
        if self.test_by == "object":
            return [f"{name} {phrase}" for phrase in it.masks]
        return [it.image.patient or name if self.test_by == "patient" else name]


def _fields(question: MaskQuestion, it: OutlinedImage, size: Size | None) -> dict[str, Any]:
    fields: dict[str, Any] = {"task": question.task, "phrase": question.phrase, "patient": it.image.patient}
    fields = {key: value for key, value in (fields | dict(it.image.meta)).items() if value}
    if size is not None:
        fields["image_size"] = list(size)
    return {**fields, "masks": question.masks}


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share from 0 to below 1")
    return value
