"""Regions in words that a person typed: ``{region}`` stands for one that was given beside them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medcap.data.regions.region import Region
from medcap.data.row_regions import REGION_TEXT, region_tags
from medcap.errors import UserError

_MARK = re.compile(r"\{region ?(\d{0,6})\}")
_MARK_OR_TAG = re.compile(rf"{_MARK.pattern}|<region>\s*</region>")


def place_regions(text: str, given: Sequence[Region], reads: bool = True) -> tuple[str, tuple[Region, ...]]:
    """Put ``<region></region>`` into typed words, as the questions of training rows have it.

    Args:
        text: what was typed. ``{region}`` and ``<region></region>`` stand for the next region, ``{region 2}`` for the
            second one, as often as it stands there.
        given: the regions.
        reads: whether the run reads regions; otherwise ``<region></region>`` is only words.

    Returns:
        The words, and the region of each of their ``<region></region>``; regions that the words do not name follow
        them.

    Raises:
        UserError: if the words name a region that there is not, or the file of one.

    Example:
        >>> place_regions("Is {region} larger?", [Region(BoxShape((0, 0, 8, 8)))])[0]
        'Is <region></region> larger?'
    """
    named: list[int] = []

    def put(mark: re.Match[str]) -> str:
        number = int(mark[1]) if mark[1] else max(named, default=0) + 1
        if not 1 <= number <= len(given):
            raise UserError(f"{mark[0]} names a region that does not exist: {len(given)} were given")
        named.append(number)
        return REGION_TEXT

    words = (_MARK_OR_TAG if reads else _MARK).sub(put, text)
    if reads and any(region_tags(words)):
        raise UserError("words cannot name the file of a region: give it as a mask, and write {region} for it")
    left = [number for number in range(1, len(given) + 1) if number not in named]
    words = " ".join([*([words] if words else []), *[REGION_TEXT] * len(left)])
    return words, tuple(given[number - 1] for number in [*named, *left])
