"""The regions of a row: those that ``<region></region>`` in its questions stands for."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from torchtune.data import Message

from medcap.data.regions.region import MaskFile, Region, regions_from_json
from medcap.data.row_layouts import Record
from medcap.errors import UserError
from medcap.plurals import counted

REGION_WORDS = ("<region>", "</region>")  # the tokens of a region stand between them
REGION_TEXT = "".join(REGION_WORDS)
FIELD = "regions"
MAX_ROW_REGIONS = 100
# MedPLIB's rows name the mask's file between the words: a name with an ending, or a path. Other words there are only
# words.
# What is left of a tag once whole ones are taken out, such as one word alone or <REGION>.
_WHOLE_TAG, _BROKEN_TAG = re.compile(r"<region>[^<>]*</region>"), re.compile(r"<\s*/?\s*regions?\b\s*>?", re.IGNORECASE)
_TAG = re.compile(r"<region>\s*([^<>]*?\.\w{1,5}|[^<>\s]*[/\\][^<>]*?)?\s*</region>")


def place_regions(row: Any, record: Record, resolve: Callable[[str], Path]) -> Record:
    """Make the regions of a row's questions parts of its turns.

    They stand under ``regions``, one for each ``<region></region>`` of the user's words in their order, or between the
    words as ``<region>file.png</region>``. A region that no question names would not be learnt from, so its row is
    refused.

    Args:
        row: the decoded JSON value.
        record: what was read of it.
        resolve: finds the file of a mask.

    Returns:
        The record; a region is a content part ``{"type": "region", "content": Region}``.

    Raises:
        UserError: if there is not one ``<region></region>`` for each region, an answer holds one, a region is none, its
            image or its file is not there.
    """
    given = row.get(FIELD) if isinstance(row, Mapping) else None
    if any(message.role == "assistant" and any(True for _ in _tags(message)) for message in record.messages):
        raise UserError(f"an answer holds {REGION_TEXT}, which only a question can name: write it in the question")
    if given and not count_regions(record.messages):
        check_tags(record.messages)
        raise UserError(
            f"it has '{FIELD}' but no {REGION_TEXT} in its questions: write one for each, or remove '{FIELD}'"
        )
    if given:
        check_tags(record.messages)
    return replace(record, messages=with_regions(record.messages, given, resolve))


def check_tags(messages: Sequence[Message]) -> None:
    """See that questions with regions hold no half of ``<region></region>``, nor one that is misspelt.

    Raises:
        UserError: naming it.
    """
    for message in messages:
        for part in message.content if message.role == "user" else ():
            if part["type"] == "text" and (found := _BROKEN_TAG.search(_WHOLE_TAG.sub("", part["content"]))):
                raise UserError(
                    f"a question holds {found.group().strip()!r}, which is no {REGION_TEXT}: write both words or none"
                )


def with_regions(messages: Sequence[Message], given: Any, resolve: Callable[[str], Path]) -> list[Message]:
    """Make the regions of questions parts of the turns.

    Args:
        messages: the turns; their images are parts.
        given: value of ``regions``; None for none.
        resolve: finds the file of a mask.

    Returns:
        The turns; new ones in place of those with regions.

    Raises:
        UserError: see :func:`place_regions`.
    """
    tags = [tag for message in messages if message.role == "user" for tag in _tags(message)]
    if not tags:
        return list(messages)
    if any(tags):
        if given is not None:
            raise UserError(f"it has '{FIELD}' and files between <region> and </region>: give them in one of the ways")
        if not all(tags):
            raise UserError("one of several <region></region> holds no file: name the mask of each between the words")
    named = () if any(tags) else regions_from_json([] if given is None else given, FIELD)
    regions = None if any(tags) else [region for region in named if region is not None]
    if regions is not None and len(regions) != len(tags):
        raise UserError(
            f"{len(tags)} {REGION_TEXT} in its questions but {counted(len(regions), 'region')} under '{FIELD}': give"
            " each its region"
        )
    if len(tags) > MAX_ROW_REGIONS:
        raise UserError(f"it has {len(tags)} regions, more than {MAX_ROW_REGIONS}: divide the row")
    num_images = sum(part["type"] == "image" for message in messages for part in message.content)
    left = None if regions is None else iter(regions)
    changed, images = [], 0
    for message in messages:
        if message.role == "user" and any(True for _ in _tags(message)):
            parts: list[dict[str, Any]] = []
            for part in message.content:
                images += part["type"] == "image"
                parts += _cut(part["content"], left, max(images, 1) - 1) if part["type"] == "text" else [part]
            message = copy(message)
            message.content = parts
        else:
            images += sum(part["type"] == "image" for part in message.content)
        changed.append(message)
    for region in regions_of(changed):
        if region.image >= num_images:
            there = (
                f"the row has {counted(num_images, 'image')}, numbered from 0" if num_images else "the row has no image"
            )
            raise UserError(f"'{FIELD}' holds a region on image {region.image}, but {there}")
    for message in changed:
        for part in message.content:
            if part["type"] == "region" and isinstance(shape := part["content"].shape, MaskFile):
                found = replace(shape, path=str(resolve(shape.path)))
                part["content"] = replace(part["content"], shape=found)
    return changed


def fill_regions(parts: Sequence[Mapping[str, Any]], regions: Sequence[Region]) -> list[dict[str, Any]]:
    """Put regions into the content of a turn.

    Args:
        parts: content parts; their words have one ``<region></region>`` for each region.
        regions: regions in order.

    Returns:
        The parts, cut as those of a training row.
    """
    left = iter(regions)
    filled: list[dict[str, Any]] = []
    for part in parts:
        has_tag = part["type"] == "text" and _TAG.search(part["content"])
        filled += _cut(part["content"], left, 0) if has_tag else [dict(part)]
    return filled


def region_tags(text: str) -> list[str]:
    """Return for each ``<region></region>`` of words the file that it names; "" for none."""
    return [match[1] or "" for match in _TAG.finditer(text)]


def count_regions(messages: Sequence[Message]) -> int:
    """Return the number of ``<region></region>`` in the questions of turns."""
    return sum(1 for message in messages if message.role == "user" for _ in _tags(message))


def regions_of(messages: Sequence[Message]) -> list[Region]:
    """Return the regions of turns, in order."""
    return [part["content"] for message in messages for part in message.content if part["type"] == "region"]


def _tags(message: Message) -> Iterator[str]:
    """Yield the file that each ``<region></region>`` of a turn names; "" for none."""
    for part in message.content:
        if part["type"] == "text":
            yield from region_tags(part["content"])


def _cut(text: str, regions: Iterator[Region] | None, image: int) -> list[dict[str, Any]]:
    """Cut a text at its regions; a part of words stands before, between and after them, even an empty one."""
    parts: list[dict[str, Any]] = []
    end = 0
    for match in _TAG.finditer(text):
        parts.append({"type": "text", "content": text[end : match.start()]})
        region = Region(MaskFile(match[1].strip()), image=image) if regions is None else next(regions)
        parts.append({"type": "region", "content": region})
        end = match.end()
    return [*parts, {"type": "text", "content": text[end:]}]
