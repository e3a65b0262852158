"""The boxes of an answer and of its reference: from their own fields, otherwise from the words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from medcap.data.boxes.box import Box, Size, boxes_from_json, listed_boxes
from medcap.data.boxes.frame import clip
from medcap.data.boxes.notations import find_boxes
from medcap.errors import UserError
from medcap.scoring.question import Answer, Question
from medcap.scoring.replies.final_reply import final_reply

_ANY = Box((0.0, 0.0, 1.0, 1.0))
# Pixels of an image whose size is not known are read on one of this size and scaled back.
_UNKNOWN = (1_000_000, 1_000_000)
# What is meant as a box, right or wrong. Single numbers and pairs in brackets are references or spacings.
_ATTEMPT = re.compile(
    r"<box>.*?(?:</box>|\Z)|\{\s*<[^{}]*(?:\}|\Z)"
    r"|\[(?=[^\[\]]*\d)(?=[^\[\]]*,[^\[\]]*,)(?:nan|inf|null|[\d\s.,e+-])+(?:\]|\Z)"
    r"|\(\s*-?\d[\d.]*\s*,\s*-?\d[\d.]*\s*\)\s*,\s*\(\s*-?\d[\d.]*\s*,[^()]*(?:\)|\Z)",
    re.DOTALL | re.IGNORECASE,
)
_PIXELS = re.compile(r"\{\s*<\s*-?\d")
_NONE = re.compile(r"\b(?:no|not|none|nothing|nowhere|absent|absence|without)\b", re.IGNORECASE)
# Kinds of questions whose answers are words: "no" there is an answer, not an absent object.
_WORDS = frozenset(("CLS", "REG", "CAP", "RO", "ROC", "RC", "GC", "MIA", "MII", "VQA"))


@dataclass(frozen=True)
class BoxReply:
    """The boxes that an answer gives.

    Attributes:
        boxes: those that are rectangles.
        unread: how many more were given that are not, such as one with five numbers or without an area.
        example: the first of these.
        silent: whether the answer neither gives a box nor says that there is none.
    """

    boxes: tuple[Box, ...] = ()
    unread: int = 0
    example: str = ""
    silent: bool = False

    @property
    def given(self) -> int:
        """How many boxes are given, those that cannot be read among them."""
        return len(self.boxes) + self.unread

    @property
    def unparsed(self) -> bool:
        """Whether something in the answer cannot be read."""
        return self.unread > 0 or self.silent


def good_boxes(value: Any, size: Size | None) -> tuple[tuple[Box, ...], tuple[str, ...]]:
    """Read the field ``boxes`` of an answer, in which one bad box must not lose the others.

    Args:
        value: what the row holds.
        size: width and height of the original image in pixels; None keeps the numbers as they are.

    Returns:
        The boxes that are rectangles on the image, cut at its edges as those of texts are, and the other entries as
        text.

    Raises:
        UserError: if it is not a list.
    """
    boxes: list[Box] = []
    bad = []
    for entry in listed_boxes(value):
        try:
            boxes += boxes_on_image([entry], size)
        except UserError:
            bad.append(json.dumps(entry)[:60])
    return tuple(boxes), tuple(bad)


def boxes_on_image(value: Any, size: Size | None, name: str = "boxes") -> tuple[Box, ...]:
    """Read boxes of a file of answers, cut at the edges of their image.

    Args:
        value: as :func:`boxes_from_json` takes it.
        size: width and height of the original image in pixels; None keeps the numbers as they are.
        name: name of the field, for messages.

    Raises:
        UserError: as :func:`boxes_from_json` does, and if nothing of a box is on the image.
    """
    boxes = boxes_from_json(value, size, name)
    if size is None:
        return boxes
    cut = [(box, clip(box.edges)) for box in boxes]
    for box, edges in cut:
        if edges is None:
            numbers = [round(edge, 2) for edge in box.pixels(size)]
            raise UserError(f"'{name}' holds {numbers}, which is outside its image of {size[0]} x {size[1]} pixels")
    return tuple(replace(box, edges=edges) for box, edges in cut if edges is not None)


def reference_boxes(question: Question) -> tuple[Box, ...] | None:
    """Return the boxes that a question asks for.

    Args:
        question: its ``boxes`` count; without them, those of the first reference.

    Returns:
        The boxes, empty where the object is absent; None where the question does not ask for boxes.

    Raises:
        UserError: if the reference is meant as a box and is none.
    """
    if question.boxes is not None:
        return question.boxes
    text = question.references[0]
    found = boxes_in_text(text, question.image_size)
    words = question.meta.get("task", "").strip().upper() in _WORDS or question.options or question.answer_type
    if words and not found.boxes:
        return None
    if found.unread and question.problem is None:
        raise UserError(
            f"row {question.id}: its reference holds {found.example!r}, which is no box: correct or drop the row"
        )
    if found.boxes:
        return found.boxes
    if question.problem is not None:
        return (_ANY,)  # a question that cannot be asked is a miss
    return () if says_none(text) else None


def predicted_boxes(answer: Answer) -> BoxReply:
    """Return the boxes that an answer gives.

    Without the image's size, pixels of one side cannot be compared with shares of the other: such a box is unread.

    Args:
        answer: its ``outputs.boxes`` count; without them, those of its final reply.
    """
    question = answer.question
    if answer.outputs.boxes is not None:
        bad = answer.bad_boxes
        reply = BoxReply(answer.outputs.boxes, len(bad), bad[0] if bad else "")
        given_in_pixels = True
    else:
        text = final_reply(answer.prediction)
        reply = boxes_in_text(text, question.image_size)
        silent = not reply.given and not says_none(text) and not answer.failed
        reply, given_in_pixels = replace(reply, silent=silent), in_pixels(text)
    reference = question.references[0]
    wanted_in_pixels = question.boxes is not None or in_pixels(reference)
    if question.image_size is None and question.boxes != () and reply.boxes and given_in_pixels != wanted_in_pixels:
        example = f"{answer.prediction[:60]} (the image's size is not known, and the reference is in another unit)"
        return BoxReply((), reply.given, example)
    return reply


def says_none(text: str) -> bool:
    """Return whether words say that an object is not there, as "none" and "There is no ring." do."""
    return bool(_NONE.search(text))


def in_pixels(text: str) -> bool:
    """Return whether a text holds boxes in ColonINST's notation, which are pixels."""
    return bool(_PIXELS.search(text))


def boxes_in_text(text: str, size: Size | None) -> BoxReply:
    """Find the boxes in a text.

    Args:
        text: any.
        size: width and height of the original image in pixels; None leaves pixels as they are.

    Returns:
        The boxes, and how many more are meant but cannot be read; it is never silent.
    """
    find: Callable[[str], list[Box]] = partial(find_boxes, width=(size or _UNKNOWN)[0], height=(size or _UNKNOWN)[1])
    boxes = find(text)
    attempts = [match[0] for match in _ATTEMPT.finditer(text)]
    bad = [attempt for attempt in attempts if not find(attempt)]
    unread = max(len(bad), len(attempts) - len(boxes))  # more boxes than are read are not lost either
    if size is None and in_pixels(text):
        scale = _UNKNOWN[0]
        boxes = [replace(box, edges=tuple(edge * scale for edge in box.edges)) for box in boxes]
    return BoxReply(tuple(boxes), unread, (bad or attempts or [""])[0][:60])
