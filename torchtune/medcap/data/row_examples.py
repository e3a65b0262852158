"""Segmentation by example: a row of example images with masks and a query image -> a row with turns.

MedPLIB's layouts of 2026 are read: ``image``, ``target_mask`` and ``icl_examples`` (or ``examples``), a list of
``{"image", "mask"}``; or flat ``image1, mask1, ..., imageN, maskN``, of which the last is the query unless there is an
``image``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from medcap.data.row_layouts import CONVERSATION_KEYS, PLACEHOLDER
from medcap.errors import UserError

MODES = ("overlay", "separate")
MAX_EXAMPLES = 3
EXAMPLE_KEYS = ("icl_examples", "examples")
SEG_WORD = "<SEG>"
FLAT_KEY = re.compile(r"(image|mask)([1-9]\d{0,3})")
_MASK_TAG = re.compile(r"<mask>(.*?)</mask>")
# MedPLIB's words.
_OVERLAY = "Example {number}: {image}\nThe blue overlay is the reference segmentation mask."
_SEPARATE = "Example {number} image: {image}\nExample {number} mask: {image}"
_QUERY = "Query: {image}\nRefer to the previous examples and segment the corresponding target in this image."


@dataclass(frozen=True)
class ExampleRow:
    """What a row of example images holds, as the row says it.

    Attributes:
        examples: image and mask of each example.
        image: the query image; None where the row names none.
        mask: the query's mask; None where the row names none.
    """

    examples: tuple[tuple[Any, Any], ...]
    image: Any
    mask: Any


def is_example_row(row: Any) -> bool:
    """Return whether a row holds example images with masks."""
    if not isinstance(row, Mapping):
        return False
    if row.get("icl_examples") is not None:  # a table gives every row every key
        return True
    given = row.get("examples")  # a common name: only images with masks count
    if isinstance(given, list) and given:
        return all(isinstance(it, Mapping) and "image" in it and "mask" in it for it in given)
    return any(None not in pair for pair in flat_pairs(row))


def read_example_row(row: Mapping[str, Any]) -> ExampleRow:
    """Read example images, query image and query mask of a row.

    Args:
        row: any row; one without examples has only a query.

    Returns:
        What it holds.

    Raises:
        UserError: if an example lacks its image or its mask.
    """
    key = next((key for key in EXAMPLE_KEYS if row.get(key)), None)
    given = [] if key is None else row[key]
    if not isinstance(given, list):
        raise UserError(f'\'{key}\' must be a list of {{"image": ..., "mask": ...}}')
    pairs = [_pair(example, f"{key}.{number}") for number, example in enumerate(given)]
    image, mask = row.get("image"), next((row[name] for name in ("target_mask", "mask") if row.get(name)), None)
    flat = flat_pairs(row)
    if flat and image is None:
        image, own = flat.pop()
        mask = own if mask is None else mask
    if not pairs:
        pairs = [(image, mask) for image, mask in flat if image is not None and mask is not None]
    return ExampleRow(tuple(pairs), image, mask)


def flat_pairs(row: Mapping[str, Any]) -> list[tuple[Any, Any]]:
    """Return the image and the mask of each number of a flat row, in their order; None where one is not there."""
    numbers = {int(found[2]) for key in row if (found := FLAT_KEY.fullmatch(str(key))) and found[1] == "image"}
    pairs = [(row[f"image{number}"], row.get(f"mask{number}")) for number in sorted(numbers)]
    return [pair for pair in pairs if pair != (None, None)]


def without_examples(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the keys of its examples, flat ones among them."""
    return {key: value for key, value in row.items() if key not in EXAMPLE_KEYS and not FLAT_KEY.fullmatch(str(key))}


def as_conversation(row: Any, mode: str = MODES[0]) -> Any:
    """Turn a row of example images into one of turns; any other row is returned as it is.

    The turns are MedPLIB's, unless the row has turns with a placeholder for every picture: then they are its own.

    Args:
        row: the decoded JSON value.
        mode: ``overlay`` draws each example's mask over its image; ``separate`` shows image and mask one after the
            other.

    Returns:
        A row with ``conversations``, ``image`` and ``masks``.

    Raises:
        UserError: if there is not one to three examples, or the query image or its mask is missing.
    """
    if not is_example_row(row):
        return row
    found = read_example_row(row)
    if not 1 <= len(found.examples) <= MAX_EXAMPLES:
        raise UserError(
            f"it holds {len(found.examples)} examples: a row needs one to {MAX_EXAMPLES} under 'icl_examples'"
        )
    if found.image is None:
        raise UserError("there is no query image: name it under 'image'")
    images = [entry for image, mask in found.examples for entry in _shown(image, mask, mode)]
    images.append(found.image)
    key = next((key for key in CONVERSATION_KEYS if row.get(key)), CONVERSATION_KEYS[0])
    own = _own_turns(row.get(key), len(images))
    turns = own or _turns(len(found.examples), mode)
    changed = without_examples(row) | {key: turns, "image": images}
    for name in ("target_mask", "mask", "images", "img"):
        changed.pop(name, None)
    tagged = own is not None and any(_MASK_TAG.search(str(turn.get("value"))) for turn in own)
    masks = row.get("masks")
    if own is None and isinstance(masks, list) and len(masks) != 1:
        raise UserError(f"it has {len(masks)} masks, but an answer by example is one: name it under 'target_mask'")
    if masks is None and not tagged:
        mask = found.mask or _tagged_mask(row.get(key))
        if mask is None:
            raise UserError(
                "there is no mask of the query image: name it under 'target_mask', or write {\"mask\": null} there if"
                " the image does not show the object"
            )
        masks = [mask]
    if isinstance(masks, list):
        changed["masks"] = [_on_image(mask, len(images) - 1) for mask in masks]
    return changed


def _on_image(mask: Any, number: int) -> Any:
    """Return a mask of a row that lies on this image, unless it says which it lies on."""
    if isinstance(mask, str):
        mask = {"mask": mask}
    elif isinstance(mask, list):
        mask = {"box": mask}
    return {"image": number, **mask} if isinstance(mask, Mapping) else mask


def masks_in_turns(turns: Any) -> list[str]:
    """Return the mask files that MedPLIB's turns name in ``<mask>`` and ``</mask>``, in order."""
    said = [turn for turn in turns if isinstance(turn, Mapping)] if isinstance(turns, list) else []
    texts = [str(turn.get("value", "")) for turn in said]
    return [path for text in texts for path in _MASK_TAG.findall(text)]


def _tagged_mask(turns: Any) -> str | None:
    return next(iter(masks_in_turns(turns)), None)


def _pair(example: Any, name: str) -> tuple[Any, Any]:
    if not isinstance(example, Mapping) or not example.get("image") or not example.get("mask"):
        raise UserError(f"'{name}' must hold an example's 'image' and its 'mask'")
    return example["image"], example["mask"]


def _shown(image: Any, mask: Any, mode: str) -> list[Any]:
    """Return the pictures of an example as entries of a row's ``image``."""
    own = dict(image) if isinstance(image, Mapping) else {"image": image}
    if mode == "overlay":
        return [{**own, "overlay": mask}]
    return [image, {**own, "mask_only": mask}]


def _turns(count: int, mode: str) -> list[dict[str, str]]:
    """Return MedPLIB's question about the last image, and the answer; ``<image>`` would be a word inside a sentence."""
    words = _OVERLAY if mode == "overlay" else _SEPARATE
    blocks = [words.format(number=number, image=PLACEHOLDER) for number in range(1, count + 1)]
    blocks.append(_QUERY.format(image=PLACEHOLDER))
    return [{"from": "human", "value": "\n".join(blocks)}, {"from": "gpt", "value": SEG_WORD}]


def _own_turns(turns: Any, pictures: int) -> list[dict[str, Any]] | None:
    """Return a row's own turns where they have a placeholder for each picture, as MedPLIB takes them."""
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        return None
    changed = [{**turn, "value": str(turn.get("value", "")).replace("<image>", PLACEHOLDER)} for turn in turns]
    there = sum(len(re.findall(f"{PLACEHOLDER}+", turn["value"])) for turn in changed)
    return changed if there >= pictures else None
