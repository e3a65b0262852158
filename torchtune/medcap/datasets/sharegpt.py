"""medcap's sharegpt rows, as its converters write them."""

from __future__ import annotations

from typing import Any

from medcap.data.conversations import PLACEHOLDER

IMAGE = PLACEHOLDER * 50


def caption_row(image: str, caption: str, folder: str) -> dict[str, Any]:
    """A picture and its caption (convert_to_sharegpt.py, lines 23-42, of myeongkyunkang/medcap at c8910f0).

    Args:
        image: file name.
        caption: the text; the character that stands for an image becomes ``(1)`` in it.
        folder: what the file name is relative to.

    Returns:
        The row.
    """
    return {
        "conversations": [
            {"from": "human", "value": IMAGE},
            {"from": "gpt", "value": caption.replace(PLACEHOLDER, "(1)")},
        ],
        "image": image,
        "meta": f"dir={folder}",
    }
