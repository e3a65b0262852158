"""The masks of an answer as a reply holds them beside its words."""

from __future__ import annotations

from typing import Any

from medcap.data.mask_names import mask_names
from medcap.data.outputs import Outputs
from medcap.data.regions.region import RunLength


def reply_masks(number: int, text: str, outputs: Outputs) -> list[dict[str, Any]]:
    """Return the masks of an answer.

    Args:
        number: number of pictures of the conversation.
        text: the answer.
        outputs: results of the model beside its words.

    Returns:
        For each mask in the order of the words ``mask`` (COCO's compressed run-length, ``{"size": [height, width],
        "counts": text}``, at the size of the picture that was sent), ``image`` (its number from 0 among the pictures)
        and, where the words say it, ``label``. The ``mask`` of an object that is named but not there is None.
    """
    masks = outputs.masks or ()
    found: list[dict[str, Any]] = []
    for region, name in zip(masks, mask_names(text, len(masks)), strict=True):
        label = (region.label if region else "") or name
        named = {"label": label} if label else {}
        if region is None:
            found.append({"mask": None, **named})
        elif isinstance(region.shape, RunLength) and region.image < number:
            mask = {"size": list(region.shape.size), "counts": region.shape.counts}
            found.append({"mask": mask, "image": region.image, **named})
    return found
