"""Answers with masks, for the protocols that compare them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcap.data.outputs import Outputs
from medcap.data.regions.region import Region, RunLength
from medcap.data.regions.run_length import encode
from medcap.scoring.question import Answer, Question

Masks = Sequence[np.ndarray | tuple[str, np.ndarray | None] | None]


def mask_of(*rows: str) -> np.ndarray:
    """Return a mask of a drawing: ``#`` is inside."""
    return np.array([[character == "#" for character in row] for row in rows])


def region_of(mask: np.ndarray, label: str = "") -> Region:
    """Return a mask as a region."""
    value = encode(mask)
    return Region(RunLength(tuple(value["size"]), value["counts"]), label)


def mask_row(
    name: str, wanted: Masks | None, given: Masks | None, image: str = "", words: str = "", **meta: str
) -> Answer:
    """Return an answer.

    Args:
        name: id of the question.
        wanted: masks of the reference, alone or after their label; None for an absent object.
        given: masks of the answer; None in place of the list for an answer without masks.
        image: name of the image; "" for one of its own, of CT.
        words: text of the answer.
        meta: further facts of the question.
    """
    labels, masks = _split(wanted)
    question = Question(
        name, (), ("",), masks=masks, mask_labels=labels, image_names=(image or f"ct_{name}.png",), meta=meta
    )
    return Answer(question, words, Outputs(None, _split(given)[1]))


def _split(masks: Masks | None) -> tuple[tuple[str, ...], tuple[Region | None, ...] | None]:
    if masks is None:
        return (), None
    pairs = [one if isinstance(one, tuple) else ("", one) for one in masks]
    regions = tuple(None if mask is None else region_of(mask, label) for label, mask in pairs)
    return tuple(label for label, _ in pairs), regions
