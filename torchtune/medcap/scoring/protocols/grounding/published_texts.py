"""The texts that published evaluators of boxes read, also of rows whose boxes are fields."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medcap.data.boxes.box import Box
from medcap.data.boxes.notations import write_box
from medcap.errors import UserError
from medcap.scoring.question import Answer, Question

_NUMBERS = re.compile(r"[^\s,\[\]]+")


def published_reference(question: Question, notation: str) -> str:
    """Return the first reference; of a row without one, its ``reference_boxes`` as the published data have boxes.

    Args:
        question: a row.
        notation: ``coloninst`` or ``qwen``.

    Raises:
        UserError: if the size of the image is needed and not known.
    """
    text = question.references[0]
    return text if text.strip() or not question.boxes else _written(question, question.boxes, (), notation)


def published_prediction(answer: Answer, notation: str) -> str:
    """Return an answer's words; of an answer without any, its ``boxes`` as :func:`published_reference` writes them.

    Entries that are no boxes stay entries: a published program does not read them.
    """
    text, boxes = answer.prediction, answer.outputs.boxes or ()
    if text.strip() or not (boxes or answer.bad_boxes):
        return text
    return _written(answer.question, boxes, answer.bad_boxes, notation)


def _written(question: Question, boxes: Sequence[Box], bad: Sequence[str], notation: str) -> str:
    size = question.image_size
    if notation == "coloninst":
        texts = [write_box(box, notation, size) if size else _as_they_are(box) for box in boxes]
        return ", ".join([*texts, *(f"{{<{'><'.join(_NUMBERS.findall(entry))}>}}" for entry in bad)])
    if size is None and boxes:
        raise UserError(
            f"row {question.id}: its boxes are fields in pixels and the published rule reads thousandths: give the row"
            " its 'image_size' [width, height]"
        )
    texts = [write_box(box, notation, size or (1, 1)) for box in boxes]
    return "".join([*texts, *(f"<box>{entry}</box>" for entry in bad)])


def _as_they_are(box: Box) -> str:
    """Write a box whose edges are the numbers of its file, which are pixels."""
    return "{<" + "><".join(str(round(edge)) for edge in box.edges) + ">}"
