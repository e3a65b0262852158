"""The masks of a row: those that the words ``<SEG>`` of its answers stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchtune.data import Message

from medcap.data.regions.mask_tags import MASK_TAG, take_mask_files
from medcap.data.regions.region import MaskFile, Region, regions_from_json
from medcap.data.row_layouts import Record
from medcap.errors import UserError
from medcap.plurals import counted

MASK_WORD = "<SEG>"  # stands for a mask in an answer
FIELD = "masks"
MAX_ROW_MASKS = 100


def place_masks(row: Any, record: Record, resolve: Callable[[str], Path]) -> Record:
    """Find the masks of a row's answers.

    They stand under ``masks``, one for each ``<SEG>`` of the assistant's words in their order, or behind the word as
    ``<mask>file.png</mask>``, which is taken off the text. An answer without words becomes a ``<SEG>`` for each, with
    its label. Where a row has ``masks`` and no place for them, they are only facts about it.

    Args:
        row: the decoded JSON value.
        record: what was read of it.
        resolve: finds the file of a mask.

    Returns:
        The record with its ``masks``.

    Raises:
        UserError: if there is not one ``<SEG>`` for each mask, a mask is none, or its file is not there.
    """
    given = row.get(FIELD) if isinstance(row, Mapping) else None
    tagged = any(MASK_TAG.search(text) for message in _answers(record.messages) for text in _texts(message))
    if given is None and not tagged:
        return record
    if given is not None and tagged:
        raise UserError(f"it has '{FIELD}' and <mask> in its answers: give masks in one of the two ways")
    masks: Sequence[Region | None]
    if given is None:
        messages, masks = _untagged(record.messages)
    else:
        masks = regions_from_json(given, FIELD, absent=True)
        messages = _filled(record.messages, masks, given)
    if len(masks) > MAX_ROW_MASKS:
        raise UserError(f"it has {len(masks)} masks, more than {MAX_ROW_MASKS}: divide the row")
    words = sum(text.count(MASK_WORD) for message in _answers(messages) for text in _texts(message))
    if not words and not tagged:
        return record
    if words != len(masks):
        where = "behind them" if tagged else f"under '{FIELD}'"
        masked = counted(len(masks), "mask")
        raise UserError(f"{words} {MASK_WORD} in its answers but {masked} {where}: give each word its mask")
    count = len(record.images)
    for mask in masks:
        if mask is not None and mask.image >= count:
            raise UserError(
                f"'{FIELD}' holds a mask on image {mask.image}, but the row has {count} images, numbered from 0"
            )
    return replace(record, messages=messages, masks=tuple(_found(mask, resolve) for mask in masks))


def _answers(messages: list[Message]) -> list[Message]:
    return [message for message in messages if message.role == "assistant"]


def _texts(message: Message) -> list[str]:
    return [part["content"] for part in message.content if part["type"] == "text"]


def _untagged(messages: list[Message]) -> tuple[list[Message], list[Region | None]]:
    """Take the file names off the answers."""
    masks: list[Region | None] = []
    images = 0
    written = []
    for message in messages:
        images += sum(part["type"] == "image" for part in message.content)
        if message.role == "assistant":
            text, paths = take_mask_files("".join(_texts(message)))
            masks += [Region(MaskFile(path), image=max(images, 1) - 1) for path in paths]
            message = _saying(message, text)
        written.append(message)
    return written, masks


def _filled(messages: list[Message], masks: Sequence[Region | None], given: list[Any]) -> list[Message]:
    """Write the words into an answer without any."""
    answers = _answers(messages)
    if len(answers) != 1 or "".join(_texts(answers[0])).strip() or not masks:
        return messages
    labels = [str(entry.get("label") or "") if isinstance(entry, Mapping) else "" for entry in given]
    words = ", ".join(f"{label} {MASK_WORD}".strip() for label in labels)
    return [_saying(message, words) if message is answers[0] else message for message in messages]


def _saying(message: Message, text: str) -> Message:
    said = copy(message)
    said.content = [{"type": "text", "content": text}]
    return said


def _found(mask: Region | None, resolve: Callable[[str], Path]) -> Region | None:
    """Return a mask with its file found."""
    if mask is None or not isinstance(mask.shape, MaskFile):
        return mask
    try:
        return replace(mask, shape=replace(mask.shape, path=str(resolve(mask.shape.path))))
    except UserError as error:
        raise UserError(str(error).replace("image ", "mask file ", 1)) from None
