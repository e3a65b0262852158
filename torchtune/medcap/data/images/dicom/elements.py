"""Values of DICOM elements as files really write them: numbers in text, 16 bits of either sign, groups of a frame."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pydicom import Dataset

_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")
# 1,500 may be 1500 or 1.5: neither is guessed.
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}(,\d{3})+")


def frame_item(dataset: Dataset, frame: int, sequence: str) -> Dataset:
    """Find where a frame's values are: in its own functional group, in the shared one, or in the file itself.

    Args:
        dataset: the file's.
        frame: its number from 0.
        sequence: keyword of the functional group's sequence.

    Returns:
        The item that holds the values (PS3.3, C.7.6.16).
    """
    own, shared = dataset.get("PerFrameFunctionalGroupsSequence"), dataset.get("SharedFunctionalGroupsSequence")
    groups = [own[frame]] if own and frame < len(own) else []
    for group in [*groups, *(shared or [])[:1]]:
        if group.get(sequence):
            return group[sequence].value[0]
    return dataset


def numbers(item: Dataset, key: str) -> list[float | None]:
    """Read decimal numbers; a decimal comma is read as a point.

    Args:
        item: that may hold them.
        key: keyword of the element.

    Returns:
        The values in their order, None for one that is not a number; empty where there is no such element.
    """
    return [_number(value) for value in _values(item, key)]


def integers(item: Dataset, key: str, little_endian: bool) -> list[int]:
    """Read 16-bit integers with the sign that they were written with.

    Args:
        item: that may hold them.
        key: keyword of the element.
        little_endian: byte order of the file, for an element whose type is not known.

    Returns:
        The values; empty where there is no such element or it holds other things.
    """
    value = item.get(key)
    if isinstance(value, bytes):
        return np.frombuffer(value[: len(value) // 2 * 2], dtype="<u2" if little_endian else ">u2").tolist()
    values = [_number(each) for each in _values(item, key)]
    return [int(each) for each in values if each is not None and each == int(each)]


def _values(item: Dataset, key: str) -> list[Any]:
    try:
        value = item.get(key)
    except (ValueError, TypeError, OverflowError):
        # pydicom refuses an element as a whole when one of its values is not a number.
        value = item.get_item(key).value
    if isinstance(value, bytes):
        value = value.decode("latin-1")
    if value is None or value == "":
        return []
    if isinstance(value, str):
        return value.split("\\")
    return list(value) if hasattr(value, "__iter__") else [value]


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        value = value.strip(" \0")
        if _DECIMAL_COMMA.fullmatch(value) and not _THOUSANDS.fullmatch(value):
            value = value.replace(",", ".")
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return float(value)
    return None
