"""Conversations in LLaVA's layout."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcap.data.row_layouts import CONVERSATION_KEYS, PLACEHOLDER, split_images
from medcap.datasets.conversion.example import Example, SkipRecord
from medcap.datasets.conversion.fields import image_of
from medcap.datasets.published.llava_turns import conversation_questions
from medcap.errors import UserError


def llava_example(record: Mapping[str, Any], folder: str, image_key: str = "image") -> Example:
    """One record of LLaVA's or ColonINST's.

    Args:
        record: ``conversations`` (or ``conversatons``, as a released file spells it) and an image, or none.
        folder: that the image is in.
        image_key: the field with its name.

    Returns:
        Its turns; ``<image>`` stays before or after the first question.

    Raises:
        SkipRecord: if the turns are not pairs, or ``<image>`` stands anywhere else.
    """
    key = next((key for key in CONVERSATION_KEYS if key in record), None)
    if key is None:
        raise SkipRecord(f"there is no '{CONVERSATION_KEYS[0]}'")
    try:
        turns = list(conversation_questions(record[key], key))
    except UserError as error:
        raise SkipRecord(str(error)) from None
    images = (image_of(record, image_key),) if record.get(image_key) else ()
    # The placeholder of medcap is a word here: a list in a text may be numbered with it.
    kinds, *others = [_kinds(text.replace(PLACEHOLDER, "(1)")) for pair in turns for text in pair]
    if any("image" in other for other in others) or kinds.count("image") > 1:
        raise SkipRecord("<image> stands elsewhere than once in the first question")
    if "image" in kinds and not images:
        raise SkipRecord(f"there is an <image> but no '{image_key}'")
    return Example(turns, images, folder, image_last=kinds == ["text", "image"])


def _kinds(text: str) -> list[str]:
    return [part["type"] for part in split_images(text)] if "<image>" in text else ["text"]
