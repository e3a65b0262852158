"""medcap 2024's sharegpt rows, as its converters write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medcap.data.row_layouts import PLACEHOLDER, split_images

IMAGE = PLACEHOLDER * 50


def caption_row(image: str, caption: str, folder: str, instruction: str = "") -> dict[str, Any]:
    """Return a picture and its caption (convert_to_sharegpt.py, lines 23-42, of myeongkyunkang/medcap at c8910f0).

    Args:
        image: file name.
        caption: the text; the character that stands for an image becomes ``(1)`` in it.
        folder: what the file name is relative to.
        instruction: what the user says after the image; nothing by default.

    Returns:
        The row.
    """
    return conversation_row([(instruction, caption)], image, folder)


def conversation_row(
    turns: Sequence[tuple[str, str]],
    image: str | None = None,
    folder: str = "",
    image_last: bool = False,
    further: Sequence[str] = (),
) -> dict[str, Any]:
    """Questions and answers about a picture, about several, or about none.

    Args:
        turns: what the user says and what the assistant answers, without a placeholder: one that stands there is a
            word that somebody wrote, and is taken out or made ``(1)`` so that it cannot stand for an image.
        image: file name; None for a conversation in words.
        folder: what the file name is relative to.
        image_last: put the image after the first question instead of before it.
        further: file names of the images that come after ``image``.

    Returns:
        The row.
    """
    conversations = []
    shown = "\n".join([IMAGE] * (1 + len(further)))
    for number, (asked, answered) in enumerate(turns):
        human = plain_words(asked)
        if image is not None and number == 0:
            human = f"{human}\n{shown}" if image_last else f"{shown}\n\n{human}" if human else shown
        conversations += [{"from": "human", "value": human}, {"from": "gpt", "value": plain_words(answered)}]
    row: dict[str, Any] = {"conversations": conversations}
    if image is not None:
        row |= {"image": [image, *further] if further else image, "meta": f"dir={folder}"}
    return row


def plain_words(text: str) -> str:
    """Return the text without anything that would be read as an image, and without blanks around it."""
    text = text.replace(PLACEHOLDER, "(1)")
    if "<image>" in text:
        text = "".join(part["content"] for part in split_images(text) if part["type"] == "text")
    return text.strip()
