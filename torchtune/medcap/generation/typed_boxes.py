"""Boxes in words that a person typed: ``{box}`` stands for one that was drawn, or given by its numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from medcap.errors import UserError

_MARK = re.compile(r"\{box ?(\d{0,6})\}")


def place_boxes(text: str, written: Sequence[str]) -> str:
    """Put boxes into typed words.

    Args:
        text: what was typed. ``{box}`` stands for the next box, ``{box 2}`` for the second one, as often as it stands
            there.
        written: the boxes in the run's notation.

    Returns:
        The words with the boxes; those that the words do not name follow them.

    Raises:
        UserError: if the words name a box that there is not.

    Example:
        >>> place_boxes("Is the thing in {box} a polyp?", ["[120, 40, 300, 200]"])
        'Is the thing in [120, 40, 300, 200] a polyp?'
    """
    named: list[int] = []

    def put(mark: re.Match[str]) -> str:
        number = int(mark[1]) if mark[1] else max(named, default=0) + 1
        if not 1 <= number <= len(written):
            raise UserError(f"{mark[0]} names a box that does not exist: {len(written)} were given")
        named.append(number)
        return written[number - 1]

    words = _MARK.sub(put, text)
    return " ".join(
        [*([words] if words else []), *(box for number, box in enumerate(written, 1) if number not in named)]
    )
