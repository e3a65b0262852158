"""The boxes of a row: written into its texts as a run has them, or made targets of a box head."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import replace
from typing import Any

from torchtune.data import Message

from medcap.data.boxes.box import AbsentBox, Box, Edges, Size, named_boxes_from_json, pixels_of
from medcap.data.boxes.frame import clip
from medcap.data.boxes.notations import BoxText, find_box_texts
from medcap.data.boxes.style import BOX_WORD, NOT_SEEN, BoxStyle
from medcap.data.images.reference import ImageRef
from medcap.data.row_layouts import Record
from medcap.errors import UserError

MAX_ROW_BOXES = 1000
_REF = re.compile(r"<ref>([^<]{0,200})</ref>")


def place_boxes(row: Any, record: Record, style: BoxStyle, size_of: Callable[[ImageRef], Size]) -> Record:
    """Write the boxes of a row as the run has them.

    Boxes stand in the texts, or under ``boxes`` in pixels of the original images. The latter take the places of the
    words ``<BOX>`` in the turns, in their order; of an answer without words, they become the answer. Where a row has
    ``boxes`` and no place for them, they are only facts about it. ``null`` is the box of what the image does not show.
    Where a row of one image has an ``image_size``, its pixels are those of an image of that size.

    Args:
        row: the decoded JSON value.
        record: what was read of it, its images expanded.
        style: how the run has boxes. A plain one leaves texts as they are; only ``<BOX>`` is filled.
        size_of: image -> its width and height in pixels; called for images with boxes only.

    Returns:
        The record; with ``style.by_head`` its ``boxes`` are those of the ``<BOX>`` in the assistant's words.

    Raises:
        UserError: if nothing is left of a box on its image or in what the tower is shown, its numbers are more than
            its notation can hold, its image is not clear, or there is not one ``<BOX>`` for each of ``boxes``.
    """
    given = row.get("boxes") if isinstance(row, Mapping) else None
    if style.is_plain and given is None:
        return record
    words = sum(text.count(BOX_WORD) for text in _texts(record.messages))
    if style.is_plain and not (words or _silent(record.messages)):
        return record
    images = _Images(record.images, size_of, row.get("image_size") if isinstance(row, Mapping) else None)
    if not images.all and given is None:
        return record  # words alone, which may speak of any image
    boxes = [] if given is None else [images.measured(box) for box in named_boxes_from_json(given, None)]
    messages = record.messages
    if boxes and not words and (silent := _silent(messages)):
        messages = [_said(message, boxes, style) if message is silent else message for message in messages]
        words = len(boxes)
    written = not words and any(find_box_texts(text, style.read) for text in _texts(messages))
    if words != len(boxes) and (words or style.by_head) and not written:
        raise UserError(
            f"{words} {BOX_WORD} in its turns but {len(boxes)} under 'boxes': write {BOX_WORD} once for each box, in"
            " their order"
        )
    writer = _Writer(style, images, boxes if words else [])
    messages = [writer.message(message) for message in messages]
    return replace(record, messages=messages, boxes=tuple(writer.targets))


def _texts(messages: list[Message]) -> list[str]:
    return [part["content"] for message in messages for part in message.content if part["type"] == "text"]


def _silent(messages: list[Message]) -> Message | None:
    """Return the assistant's only turn if it says nothing."""
    answers = [message for message in messages if message.role == "assistant"]
    return answers[0] if len(answers) == 1 and not "".join(_texts(answers)).strip() else None


def _said(message: Message, boxes: list[Box | AbsentBox], style: BoxStyle) -> Message:
    """Return an answer that names each box by its label, if it has one."""
    marked = style.notation == "qwen"
    labels = [f"<ref>{box.label}</ref>" if marked else f"{box.label} " for box in boxes]
    words = ", ".join((label if box.label else "") + BOX_WORD for label, box in zip(labels, boxes, strict=True))
    filled = copy(message)
    filled.content = [{"type": "text", "content": words}]
    return filled


class _Images:
    """The images of a conversation and their sizes.

    Args:
        images: in their order.
        size_of: reads a size.
        given: the row's ``image_size``, which counts where it has one image.
    """

    def __init__(self, images: list[ImageRef], size_of: Callable[[ImageRef], Size], given: Any = None) -> None:
        self.all = images
        self._size_of, self._given = size_of, given if len(images) == 1 else None
        self._sizes: dict[tuple[str, str], Size] = {}

    def size(self, number: int) -> Size:
        """Return width and height of an image."""
        image = self.all[number]
        key = image.path, image.view.axis  # all slices of a volume along one axis have one size
        if key not in self._sizes:
            self._sizes[key] = self._size_of(image)
        return self._sizes[key]

    def unit(self, number: int) -> Size:
        """Return the width and height that the row's pixels on an image count."""
        return pixels_of(self._given, self.size(number))

    def fit(self, number: int) -> str | None:
        """Return how an image fills the tower's square, as far as its view says it."""
        return self.all[number].view.fit

    def measured(self, box: Box | AbsentBox) -> Box | AbsentBox:
        """Return a box of pixels in shares of its image."""
        if box.image >= len(self.all):
            raise UserError(
                f"'boxes' holds a box on image {box.image}, but the row has {len(self.all)} images, numbered from 0"
            )
        if isinstance(box, AbsentBox):
            return box
        width, height = self.unit(box.image)
        left, top, right, bottom = box.edges
        edges = clip((left / width, top / height, right / width, bottom / height))
        if edges is None:
            raise UserError(
                f"'boxes' holds {[float(f'{edge:g}') for edge in box.edges]}, which is outside its image of {width} x"
                f" {height} pixels: boxes are pixels of the original image; correct it, or remove the row"
            )
        return replace(box, edges=edges)

    def of_text(self, shown: int, words: str, must_be_one: bool) -> int:
        """Return the number of the image that a box in a text is on.

        Args:
            shown: images that come before it.
            words: the box, for messages.
            must_be_one: whether images of one size are not as good as one.
        """
        candidates = range(shown or len(self.all))
        if len(candidates) > 1:
            alike = len({(self.size(number), self.fit(number)) for number in candidates}) == 1
            if must_be_one or not alike:
                raise UserError(
                    f"{words} may be on any of {len(candidates)} images: write {BOX_WORD} there, and the box under"
                    ' \'boxes\' as {"box": [x1, y1, x2, y2], "image": 0} in pixels'
                )
        return candidates[-1]


class _Writer:
    """Rewrites turn after turn.

    Args:
        style: how the run has boxes.
        images: of the conversation.
        boxes: those that ``<BOX>`` stands for, in their order.

    Attributes:
        targets: the boxes of ``<BOX>`` in the assistant's words that were made.
    """

    def __init__(self, style: BoxStyle, images: _Images, boxes: list[Box | AbsentBox]) -> None:
        self.style, self.images = style, images
        self.targets: list[Box | AbsentBox] = []
        self._boxes = iter(boxes)
        self._shown = self._count = 0

    def message(self, message: Message) -> Message:
        """Return a turn with its boxes written."""
        to_head = self.style.by_head and message.role == "assistant"
        parts = []
        for part in message.content:
            if part["type"] == "image":
                self._shown += 1
            else:
                part = part | {"content": self._text(part["content"], to_head)}
            parts.append(part)
        written = copy(message)
        written.content = parts
        return written

    def _text(self, text: str, to_head: bool) -> str:
        pieces = text.split(BOX_WORD)
        written = [self._piece(pieces[0], to_head)]
        for piece in pieces[1:]:
            box = next(self._boxes)
            written += [self._box(box, BOX_WORD, to_head), self._piece(piece, to_head)]
        return "".join(written)

    def _piece(self, text: str, to_head: bool) -> str:
        if self.style.is_plain:
            return text
        pieces, end = [], 0
        for found in find_box_texts(text, self.style.read):
            pieces += [self._plain(text[end : found.start]), self._found(found, text, to_head)]
            end = found.end
        return "".join([*pieces, self._plain(text[end:])])

    def _plain(self, text: str) -> str:
        """Take Qwen-VL's marks off the words where boxes get another notation."""
        return text if self.style.written in (None, "qwen") else _REF.sub(r"\1", text)

    def _found(self, found: BoxText, text: str, to_head: bool) -> str:
        """Return what is written in the place of a box in a text."""
        words = text[found.start : found.end][:80]
        if found.excess is not None:
            raise UserError(
                f"{words} holds {found.excess:g}, more than {found.notation} can: name the notation of this file by"
                " dataset.box_format, or correct the box"
            )
        number = self.images.of_text(self._shown, words, to_head)
        size = self.images.size(number)
        unit = self.images.unit(number) if found.notation == "coloninst" else size
        edges = found.edges_within(unit)
        if edges is None:
            raise UserError(
                f"{words} has no area on its image of {unit[0]} x {unit[1]} pixels (read as {found.notation}): correct"
                " it, name the notation of this file by dataset.box_format, or remove the row"
            )
        written = self.style.written or found.notation
        stays = written == found.notation and not self.style.shown and unit == size and edges == found.edges(size)
        if stays and not to_head:
            self._take()
            return text[found.start : found.end]
        box = Box(edges, found.label, number)
        name = f"<ref>{found.label}</ref>" if written == "qwen" else f"{found.label} "
        return (name if found.label else "") + self._box(box, words, to_head, written)

    def _box(self, box: Box | AbsentBox, words: str, to_head: bool, notation: str | None = None) -> str:
        """Return a box without its label, or ``<BOX>`` for one that a head gives."""
        self._take()
        if isinstance(box, AbsentBox):
            self.targets += [box] if to_head else []
            return BOX_WORD if to_head else NOT_SEEN
        size, fit = self.images.size(box.image), self.images.fit(box.image)
        if to_head:
            self._see(box.edges, words, size, fit)
            self.targets.append(box)
            return BOX_WORD
        text = self.style.write(replace(box, label=""), size, fit, notation)
        if not text:
            self._see(box.edges, words, size, fit)
        return text

    def _see(self, edges: Edges, words: str, size: Size, fit: str | None) -> None:
        """See that something of a box is in what the tower is shown."""
        if self.style.frame is None or self.style.frame(size, fit).to_shown(edges) is not None:
            return
        left, top, right, bottom = Box(edges).pixels(size)
        raise UserError(
            f"{words} ({left:g}, {top:g}, {right:g}, {bottom:g} in pixels) is outside what the tower is shown of its"
            f" image of {size[0]} x {size[1]}: dataset.view.fit=pad shows all of an image; or remove the row"
        )

    def _take(self) -> None:
        self._count += 1
        if self._count > MAX_ROW_BOXES:
            raise UserError(f"it has more than {MAX_ROW_BOXES:,} boxes: divide the row")
