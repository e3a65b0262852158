"""The control ``prior_mask``: the mean mask of the same phrase in the training answers, without any image or model."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np

from medcap.data.boxes.box import Size, size_from_json
from medcap.data.chat_tokenizer import role_of
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.outputs import Outputs
from medcap.data.regions.draw import draw_region, read_mask
from medcap.data.regions.region import MaskFile, Region, RunLength, regions_from_json
from medcap.data.regions.run_length import encode
from medcap.data.row_layouts import Record
from medcap.evaluation.answering import Engine, Entry, PredictionStore, collect, generated
from medcap.evaluation.phrases import keys_of, phrase_keys
from medcap.evaluation.prompting.base import PromptMethod
from medcap.evaluation.training_answers import TrainingAnswers, nothing_found, unread_rows
from medcap.generation.request import Generation, Request
from medcap.scoring.metrics.masks import resize_nearest
from medcap.scoring.question import Question, message_text

_MASK_WORD = "<SEG>"
_MEDPLIB = re.compile(r"<mask>\s*([^<>]{1,4096}?)\s*</mask>")
_GRID = 256, 256  # on which masks of images of any size are added


@dataclass
class _Sum:
    inside: np.ndarray = field(default_factory=lambda: np.zeros(_GRID, np.float32))
    count: int = 0

    def add(self, mask: np.ndarray) -> None:
        self.inside += resize_nearest(mask, _GRID)
        self.count += 1

    def best(self) -> np.ndarray:
        """Return the pixels that are inside in at least so many of the masks as fits them best, ``_GRID`` bool.

        Small objects that lie elsewhere in each image have no pixel in half of their masks: a fixed share would answer
        with nothing, which is no prior. The share is the one whose Dice with all the masks, their pixels counted
        together, is highest; of equal ones the highest.
        """
        levels, pixels = np.unique(self.inside[self.inside > 0], return_counts=True)  # rising
        if not len(levels):
            return np.zeros(_GRID, dtype=bool)
        # Of the pixels at each level and above: how many there are, and how many pixels of masks lie there.
        chosen = pixels[::-1].cumsum()
        shared = (levels.astype(np.float64) * pixels)[::-1].cumsum()
        dice = 2.0 * shared / (self.count * chosen + shared[-1])
        return self.inside >= levels[::-1][int(dice.argmax())]


class MaskPrior(PromptMethod):
    """Answers every question with mean masks.

    Args:
        training: the training answers.
        questions: what will be asked; only masks of their phrases are kept.

    Attributes:
        notices: what a reader of the scores must know.

    Raises:
        UserError: if the training answers cannot be read or hold no mask.
    """

    name = "prior_mask"
    file = "predictions"
    template = (
        "no model is asked: the mean mask of the same phrase in the training answers, cut where it fits them best"
    )

    def __init__(self, training: TrainingAnswers, questions: Sequence[Question]) -> None:
        self._wanted = {key for question in questions for label in _labels(question) for key in _keys(question, label)}
        self._means: dict[str, _Sum] = {}
        self._all = _Sum()
        self._sources = training.names

        def add(row: Any, record: Record, reader: ImageReader) -> None:
            for keys, mask in _answers(row, record, reader):
                self._add(keys, mask)

        bad = training.read(add)
        if not self._all.count:
            raise nothing_found(training, "mask", bad)
        self.notices = unread_rows(self.name, bad)

    def _add(self, keys: Sequence[str], mask: np.ndarray) -> None:
        self._all.add(mask)
        for key in keys:
            if key in self._wanted:
                self._means.setdefault(key, _Sum()).add(mask)

    def masks(self, question: Question) -> tuple[Region, ...]:
        """Return a mean mask for each that a question asks for; of a phrase that is new, that of all answers."""
        found = []
        for place, label in enumerate(_labels(question)):
            sums = next((self._means[key] for key in _keys(question, label) if key in self._means), self._all)
            value = encode(resize_nearest(sums.best(), _shape(question, place)))
            found.append(Region(RunLength(tuple(value["size"]), value["counts"]), label))
        return tuple(found)

    def ask(self, questions: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        masks = {question.id: self.masks(question) for question in questions}

        def run(requests: list[Request], on_result: Any) -> None:
            for index, request in enumerate(requests):
                own = masks[str(request.id)]
                words = ", ".join([_MASK_WORD] * len(own))
                on_result(index, Generation(words, [], "stop", outputs=Outputs(masks=own)))

        requests = [Request(list(question.messages), question.id) for question in questions]
        settings = {"asked": self.name, "prior_source": self._sources}
        extra = [[_encoded(region) for region in masks[question.id]] for question in questions]
        with store.open(self.file, settings) as file:
            return collect(questions, requests, run, lambda _, result: generated(result), file, extra)


def _encoded(region: Region) -> str:
    """Return what tells one mask from another in a fingerprint."""
    return region.shape.counts if isinstance(region.shape, RunLength) else str(region.shape)


def _labels(question: Question) -> tuple[str, ...]:
    masks = question.masks or (None,)
    return question.mask_labels or tuple(region.label if region else "" for region in masks)


def _keys(question: Question, label: str) -> list[str]:
    """Return what tells an object, the surest first: its label, then what its question says."""
    return list(dict.fromkeys([*keys_of("", label), *phrase_keys(question)]))


def _shape(question: Question, place: int) -> tuple[int, int]:
    """Return height and width of the image, as far as they are known."""
    if question.image_size is not None:
        return question.image_size[1], question.image_size[0]
    region = (question.masks or (None,))[place]
    return region.shape.size if region is not None and isinstance(region.shape, RunLength) else _GRID


def _answers(row: Any, record: Record, reader: ImageReader) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield each mask of a row's answers, with what tells its object."""

    @cache
    def size() -> Size:
        given = size_from_json(row.get("image_size") if isinstance(row, Mapping) else None)
        return given or reader.shown_size(ImageRef.of(record.images[0]))

    given = row.get("masks") if isinstance(row, Mapping) else None
    structured = iter(regions_from_json(given, "masks", absent=True) if given else ())
    phrase = str(row.get("phrase") or "") if isinstance(row, Mapping) else ""
    question = ""
    for message in record.messages:
        text, role = message_text(message), role_of(message)
        if role == "user":
            question = text
        if role != "assistant":
            continue
        regions = [region for _, region in zip(range(text.count(_MASK_WORD)), structured, strict=False)]
        regions = regions or [Region(MaskFile(match[1])) for match in _MEDPLIB.finditer(text)]
        for region in regions:
            if region is not None:
                shape = region.shape
                whole = isinstance(shape, MaskFile | RunLength)
                mask = read_mask(shape, reader) if whole else draw_region(region, size(), reader)
                yield list(dict.fromkeys([*keys_of("", region.label), *keys_of(question, phrase)])), mask
