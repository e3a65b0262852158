"""Boxes that a published file has in its words: checked, and cut at the edges of their image."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace

from medcap.data.boxes.box import Box, Size
from medcap.data.boxes.notations import find_box_texts, find_look_alikes, write_box
from medcap.datasets.conversion.example import Example, SkipRecord
from medcap.datasets.published.marked import NO_AREA, NOT_FOUR, OUTSIDE
from medcap.errors import UserError

UNREADABLE = "the image cannot be read"


def with_boxes_inside(example: Example, notation: str, size_of: Callable[[str], Size] | None = None) -> Example:
    """Cut the boxes in an example's words at the edges of its image.

    Args:
        example: of one image. Without boxes, and where an image of which the size is needed is missing, it is returned
            as it is.
        notation: of its boxes.
        size_of: returns the size of an image by its path; None for a notation that needs none, such as thousandths.

    Returns:
        The example; a box that lies within the image keeps its words.

    Raises:
        SkipRecord: if a box is not four numbers, has no area or lies outside the image, or the image cannot be read.
    """
    if not any(_boxes_in(text, notation) for turn in example.turns for text in turn):
        return example
    size = (1000, 1000)
    if size_of is not None:
        paths = (os.path.join(example.folder, name) for name in example.images)
        path = next((path for path in paths if os.path.isfile(path)), None)
        if path is None:
            return example
        try:
            size = size_of(path)
        except UserError:
            raise SkipRecord(UNREADABLE) from None
    turns = [(_inside(asked, notation, size), _inside(answered, notation, size)) for asked, answered in example.turns]
    return replace(example, turns=turns)


def _boxes_in(text: str, notation: str) -> Sequence[object]:
    return find_box_texts(text, notation) or find_look_alikes(text, notation)


def _inside(text: str, notation: str, size: Size) -> str:
    if find_look_alikes(text, notation):
        raise SkipRecord(NOT_FOUR)
    parts, end = [], 0
    for found in find_box_texts(text, notation):
        left, top, right, bottom = found.numbers
        if not (left < right and top < bottom):
            raise SkipRecord(NO_AREA)
        kept, edges = found.edges_within(size), found.edges(size)
        if kept is None:
            raise SkipRecord(OUTSIDE)
        words = text[found.start : found.end]
        parts += [
            text[end : found.start],
            words if kept == edges else write_box(Box(kept, found.label), notation, size),
        ]
        end = found.end
    return "".join([*parts, text[end:]])
