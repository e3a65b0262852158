"""The control ``prior_box``: the mean box of the same phrase in the training answers, without any image or model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from medcap.data.boxes.box import Box, Size, named_boxes_from_json, size_from_json
from medcap.data.boxes.notations import write_box
from medcap.data.chat_tokenizer import role_of
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.outputs import Outputs
from medcap.data.row_layouts import Record
from medcap.evaluation.answering import Engine, Entry, PredictionStore, collect, generated
from medcap.evaluation.phrases import keys_of, phrase_keys
from medcap.evaluation.prompting.base import PromptMethod
from medcap.evaluation.training_answers import TrainingAnswers, nothing_found, unread_rows
from medcap.generation.request import Generation, Request
from medcap.scoring.question import Question, message_text
from medcap.scoring.replies.box_reply import boxes_in_text, in_pixels

_BOX_WORD = "<BOX>"
_ANY_SIZE = (1000, 1000)


@dataclass
class _Sum:
    edges: list[float] = field(default_factory=lambda: [0.0] * 4)
    count: int = 0

    def add(self, box: Box) -> None:
        self.edges = [total + edge for total, edge in zip(self.edges, box.edges, strict=True)]
        self.count += 1

    def mean(self) -> Box:
        left, top, right, bottom = (total / self.count for total in self.edges)
        return Box((left, top, right, bottom))


class BoxPrior(PromptMethod):
    """Answers every question with a mean box.

    Args:
        training: the training answers.

    Attributes:
        notices: what a reader of the scores must know.

    Raises:
        UserError: if they cannot be read or hold no box.
    """

    name = "prior_box"
    file = "predictions"
    template = "no model is asked: the mean box of the same phrase in the training answers"

    def __init__(self, training: TrainingAnswers) -> None:
        self._means: dict[str, _Sum] = {}
        self._all = _Sum()
        self._sources = training.names

        def add(row: Any, record: Record, reader: ImageReader) -> None:
            for keys, boxes in _answers(row, record, reader):
                self._add(keys, boxes)

        bad = training.read(add)
        if not self._all.count:
            raise nothing_found(training, "box", bad)
        self.notices = unread_rows(self.name, bad)

    def _add(self, keys: Sequence[str], boxes: Sequence[Box]) -> None:
        for box in boxes:
            self._all.add(box)
            for key in keys:
                self._means.setdefault(key, _Sum()).add(box)

    def box(self, question: Question) -> Box:
        """Return the mean box of a question's phrase; of a phrase that was never seen, that of all answers."""
        return next((self._means[key] for key in phrase_keys(question) if key in self._means), self._all).mean()

    def ask(self, questions: Sequence[Question], engine: Engine, store: PredictionStore) -> list[Entry]:
        boxes = {question.id: self.box(question) for question in questions}
        texts = {question.id: _written(question, boxes[question.id]) for question in questions}

        def run(requests: list[Request], on_result: Any) -> None:
            for index, request in enumerate(requests):
                box = boxes[str(request.id)]
                on_result(index, Generation(texts[str(request.id)], [], "stop", outputs=Outputs((box,))))

        requests = [Request(list(question.messages), question.id) for question in questions]
        settings = {"asked": self.name, "prior_source": self._sources}
        extra = [list(boxes[question.id].edges) for question in questions]
        with store.open(self.file, settings) as file:
            return collect(questions, requests, run, lambda _, result: generated(result), file, extra)


def _written(question: Question, box: Box) -> str:
    """Write a box in the notation of the question's reference, for the protocols that read texts."""
    reference = question.references[0]
    if in_pixels(reference) and question.image_size is not None:
        return write_box(box, "coloninst", question.image_size)
    return write_box(box, "qwen" if "<box>" in reference else "thousandths", question.image_size or _ANY_SIZE)


def _answers(row: Any, record: Record, reader: ImageReader) -> Iterator[tuple[list[str], list[Box]]]:
    """Yield what each question of a row asks for, with the boxes of its answer."""

    @cache
    def size() -> Size:
        given = size_from_json(row.get("image_size") if isinstance(row, Mapping) else None)
        return given or reader.shown_size(ImageRef.of(record.images[0]))

    if not record.images:
        return  # words alone, which may speak of any image
    given = row.get("boxes") if isinstance(row, Mapping) else None
    structured = iter(named_boxes_from_json(given, size())) if given else iter(())
    phrase = str(row.get("phrase") or "") if isinstance(row, Mapping) else ""
    question = ""
    for message in record.messages:
        text, role = message_text(message), role_of(message)
        named = [box for _, box in zip(range(text.count(_BOX_WORD)), structured, strict=False)]
        if role == "user":
            question = text
        elif role == "assistant":
            boxes = [box for box in (named if text.strip() else structured) if isinstance(box, Box)]
            if not boxes:
                boxes = list(boxes_in_text(text, size() if in_pixels(text) else _ANY_SIZE).boxes)
            if boxes:
                yield keys_of(question, phrase), boxes
