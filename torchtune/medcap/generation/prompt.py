"""Requests whose messages are those of the training records; ``data/chat_tokenizer.py`` writes them by the template."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torchtune.data import Message

from medcap.data.regions.region import Region, regions_as_json
from medcap.data.row_regions import REGION_TEXT, with_regions
from medcap.errors import UserError
from medcap.generation.request import Request


def caption_request(image: Any, id: str = "") -> Request:
    """Ask for a caption: only the image, as in the caption records.

    Args:
        image: a reference, a path or a PIL image.
        id: name of the request.

    Returns:
        The request.
    """
    return Request([user_message(image)], id)


def question_request(image: Any | None, question: str, id: str = "", regions: Sequence[Any] = ()) -> Request:
    """Ask a question about an image.

    Args:
        image: a reference, a path, a PIL image, or None to ask without one.
        question: the words.
        id: name of the request.
        regions: the regions that ``<region></region>`` in the words stands for, in order: as rows of data have them,
            such as ``[10, 20, 60, 80]``, or as :class:`Region`.

    Returns:
        The request.

    Raises:
        UserError: if regions are given, and one is none or there is not one ``<region></region>`` for each.
    """
    messages = [user_message(image, question)]
    if not regions:
        return Request(messages, id)
    if REGION_TEXT not in question:
        raise UserError(f"regions are given and no {REGION_TEXT} is in the question: say where each belongs")
    written = [regions_as_json([region])[0] if isinstance(region, Region) else region for region in regions]
    return Request(with_regions(messages, written, Path), id)


def user_message(image: Any | Sequence[Any] | None = None, text: str = "") -> Message:
    """Return a user's turn, cut into the parts that ``<image>\\n`` and the text are cut into in a training record.

    Args:
        image: a reference, a path, a PIL image or a prepared one, a list of them, or None.
        text: the words; a character that stands for an image must not occur in them.

    Returns:
        The turn: images first.
    """
    images = image if isinstance(image, list | tuple) else [] if image is None else [image]
    if not images:
        return Message(role="user", content=text, masked=True)
    parts: list[dict[str, Any]] = [{"type": "image", "content": image} for image in images]
    if text:
        parts.append({"type": "text", "content": f"\n{text}"})
    return Message(role="user", content=parts, masked=True)
