"""The boxes of an answer and of its reference: from their own fields, otherwise from the words."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from medcap.data.boxes.box import Box, Size, boxes_from_json
from medcap.data.boxes.notations import find_boxes
from medcap.errors import UserError
from medcap.scoring.question import Answer, Question
from medcap.scoring.replies.final_reply import final_reply

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
        The boxes that are rectangles, and the other entries as text.

    Raises:
        UserError: if it is not a list.
    """
    if not isinstance(value, list):
        boxes_from_json(value, size)
    boxes: list[Box] = []
    bad = []
    for entry in value:
        try:
            boxes += boxes_from_json([entry], size)
        except UserError:
            bad.append(json.dumps(entry)[:60])
    return tuple(boxes), tuple(bad)


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
    found = _in_text(text, question.image_size)
    if found.unread:
        raise UserError(
            f"row {question.id}: its reference holds {found.example!r}, which is no box: correct or drop the row"
        )
    if found.boxes:
        return found.boxes
    words = question.meta.get("task", "").strip().upper() in _WORDS or question.options or question.answer_type
    return () if not words and says_none(text) else None


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
        in_pixels = True
    else:
        text = final_reply(answer.prediction)
        reply = _in_text(text, question.image_size)
        silent = not reply.given and not says_none(text) and not answer.failed
        reply, in_pixels = replace(reply, silent=silent), bool(_PIXELS.search(text))
    reference = question.references[0]
    wanted_in_pixels = question.boxes is not None or bool(_PIXELS.search(reference))
    if question.image_size is None and question.boxes != () and reply.boxes and in_pixels != wanted_in_pixels:
        example = f"{answer.prediction[:60]} (the image's size is not known, and the reference is in another unit)"
        return BoxReply((), reply.given, example)
    return reply


def says_none(text: str) -> bool:
    """Return whether words say that an object is not there, as "none" and "There is no ring." do."""
    return bool(_NONE.search(text))


def _in_text(text: str, size: Size | None) -> BoxReply:
    find: Callable[[str], list[Box]] = partial(find_boxes, width=(size or _UNKNOWN)[0], height=(size or _UNKNOWN)[1])
    boxes = find(text)
    attempts = [match[0] for match in _ATTEMPT.finditer(text)]
    bad = [attempt for attempt in attempts if not find(attempt)]
    unread = max(len(bad), len(attempts) - len(boxes))  # more boxes than are read are not lost either
    if size is None and _PIXELS.search(text):
        scale = _UNKNOWN[0]
        boxes = [replace(box, edges=tuple(edge * scale for edge in box.edges)) for box in boxes]
    return BoxReply(tuple(boxes), unread, (bad or attempts or [""])[0][:60])
