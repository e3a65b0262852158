"""The boxes of an answer as a reply holds them beside its words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medcap.data.boxes.style import BoxStyle
from medcap.data.outputs import Outputs
from medcap.generation.request import PreparedImage, RequestImage


def reply_boxes(style: BoxStyle, images: Sequence[RequestImage], text: str, outputs: Outputs) -> list[dict[str, Any]]:
    """Return the boxes of an answer.

    Args:
        style: how the run writes boxes.
        images: all pictures of the conversation; boxes in words are on the last one.
        text: the answer.
        outputs: results of the model beside its words; its boxes count where it has any.

    Returns:
        For each ``box`` ([left, top, right, bottom] in pixels of the picture that was sent), ``image`` (its number from
        0 among the pictures) and, where it is known, ``label``.
    """
    sent = [(image.size, image.fit) for image in images if isinstance(image, PreparedImage) and image.size is not None]
    if not sent or len(sent) < len(images):
        return []
    last = len(sent) - 1
    size, fit = sent[last]
    found = outputs.boxes
    if found is None:
        found = [replace(box, image=last) for box in style.find(text, size, fit)]
    return [
        {
            "box": [round(edge, 2) for edge in box.pixels(sent[box.image][0])],
            "image": box.image,
            **({"label": box.label} if box.label else {}),
        }
        for box in found
        if box.image <= last
    ]
