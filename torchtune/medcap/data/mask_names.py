"""What an answer calls its masks."""

from __future__ import annotations

import re

from medcap.data.boxes.style import NOT_SEEN
from medcap.data.row_masks import MASK_WORD

_PLACE = re.compile(f"{re.escape(MASK_WORD)}|{re.escape(NOT_SEEN)}")
_BEGIN = re.compile(r"[.,;:!?\n]")
_LEADING = re.compile(r"^(?:(?:and|or|but|the|a|an)\s+)+", re.IGNORECASE)
_TRAILING = re.compile(r"\s+(?:is|are|lies|here|at)$", re.IGNORECASE)
_NO_NAME = {"and", "or", "it", "this", "that", "they", "these", "those", "here", "is", "are", "yes", "no", "sure"}
_MOST_WORDS = 4


def mask_names(text: str, count: int) -> list[str]:
    """Find the words before each mask of an answer that name it: ``liver <SEG>, the left kidney is not visible``.

    Args:
        text: the answer; each of its masks is a ``<SEG>``, or what is said of an object that is not there.
        count: number of masks, absent ones included.

    Returns:
        A name for each, "" where there is none; no names at all where the answer has not one place for each mask.
    """
    places = list(_PLACE.finditer(text))
    if len(places) != count:
        return [""] * count
    names, start = [], 0
    for place in places:
        words = _BEGIN.split(text[start : place.start()].rstrip(" :"))[-1].strip()
        name = _TRAILING.sub("", _LEADING.sub("", words))
        known = re.search(r"\w", name) and name.casefold() not in _NO_NAME and len(name.split()) <= _MOST_WORDS
        names.append(name if known else "")
        start = place.end()
    return names
