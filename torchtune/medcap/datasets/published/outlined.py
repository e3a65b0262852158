"""What sets of masks say of an image: its objects by name, each with one mask."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from medcap.data.regions.region import RunLength
from medcap.data.regions.run_length import encode
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.marked import MarkedImage, MarkedObject, plain_phrase
from medcap.errors import UserError

if TYPE_CHECKING:
    import numpy as np

BACKGROUND = "background"


@dataclass(frozen=True, slots=True)
class OutlinedImage:
    """An image and the masks of its objects.

    Attributes:
        image: its names and its objects, which have no boxes.
        masks: mask of each object by its phrase.
    """

    image: MarkedImage
    masks: Mapping[str, RunLength]


def outlined(
    location: str,
    names: tuple[str, ...],
    masks: Iterable[tuple[str, np.ndarray]],
    patient: str = "",
    meta: Mapping[str, str] | None = None,
) -> OutlinedImage:
    """Return an image with one mask for each phrase: that of all its instances together.

    Args:
        location: the file and row, for messages.
        names: names that the image may have.
        masks: phrase and mask, ``[H, W]`` bool; an empty mask is no object.
        patient: whose image it is, where that is known.
        meta: further fields of its rows, such as ``modality``.

    Raises:
        UserError: if masks of one image differ in size.
    """
    merged: dict[str, np.ndarray] = {}
    size = None
    for phrase, mask in masks:
        size = size or mask.shape
        if mask.shape != size:
            raise UserError("the masks of an image differ in size")
        if mask.any():
            merged[phrase] = mask | merged[phrase] if phrase in merged else mask
    lengths = {phrase: as_run_length(mask) for phrase, mask in merged.items()}
    objects = tuple(MarkedObject(phrase, ()) for phrase in lengths)
    return OutlinedImage(MarkedImage(location, names, objects, patient=patient, meta=meta or {}), lengths)


def of_values(values: np.ndarray, classes: Mapping[int, str]) -> tuple[list[tuple[str, np.ndarray]], list[int]]:
    """Return the masks in a picture whose values are classes.

    Args:
        values: ``[H, W]``.
        classes: phrase of each value; "background" for none.

    Returns:
        Phrase and mask of each value that is there, and the values above 0 that are no class.
    """
    import numpy as np

    there = np.unique(values)
    found = [(classes[int(value)], values == value) for value in there if int(value) in classes]
    unknown = [int(value) for value in there if value and int(value) not in classes]
    return [(phrase, mask) for phrase, mask in found if phrase.lower() != BACKGROUND], unknown


def classes_of(value: object, name: str) -> dict[int, str]:
    """Read the phrase of each value of a mask.

    Args:
        value: ``{"1": "Liver"}``, ``{"Liver": 1}``, or a list of labels whose places are the values.
        name: of the file or the option, for messages.

    Raises:
        UserError: if it is something else.
    """
    pairs = list(value.items()) if isinstance(value, Mapping) else []
    if isinstance(value, list):
        pairs = list(enumerate(value))
    classes: dict[int, str] = {}
    for first, second in pairs:
        number, phrase = (second, first) if _is_number(second) and not _is_number(first) else (first, second)
        if _is_number(number) and isinstance(phrase, str) and field_text(phrase):
            classes[int(number)] = plain_phrase(field_text(phrase))
    if not pairs or len(classes) != len(pairs):
        raise UserError(f'{name} must hold classes as {{"1": "liver", "2": "spleen"}}, or a list of names from 0 on')
    return classes


def patient_of(pattern: re.Pattern[str] | None, name: str) -> str:
    """Return the part of an image's name that says whose it is: the first group of a pattern, or all that it finds."""
    found = pattern.search(PurePosixPath(name).stem) if pattern else None
    return "" if found is None else (found[1] if found.re.groups else found[0]) or ""


def _is_number(value: object) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or (isinstance(value, str) and value.isdecimal())


def as_run_length(mask: np.ndarray) -> RunLength:
    """Return a mask, ``[H, W]`` bool, as a run-length."""
    value = encode(mask)
    return RunLength((value["size"][0], value["size"][1]), value["counts"])
