"""From a judge's reply to a verdict."""

from __future__ import annotations

import re
from collections.abc import Callable

RIGHT = "RIGHT"
WRONG = "WRONG"
UNPARSED = "UNPARSED"
STRICT = "strict"

_WORD = re.compile(r"[^\W_]+")
_ALONE = re.compile(r"[\W_]*(right|wrong)[\W_]*", re.IGNORECASE)


def parse_strict(reply: str) -> str:
    """A verdict only where the reply gives one and no other.

    The first line that has a letter or digit must be RIGHT or WRONG, in any case, with nothing around it but
    punctuation, markup and white space. What follows may explain it, but must not hold the other word.

    Args:
        reply: the judge's words.

    Returns:
        ``RIGHT``, ``WRONG``, or ``UNPARSED`` for anything else, such as "WRONG, it is the right lung".
    """
    lines = [line for line in reply.splitlines() if _WORD.search(line)]
    first = _ALONE.fullmatch(lines[0]) if lines else None
    if first is None:
        return UNPARSED
    verdict = first[1].upper()
    other = WRONG if verdict == RIGHT else RIGHT
    words = {word.upper() for line in lines[1:] for word in _WORD.findall(line)}
    return UNPARSED if other in words else verdict


def parse_medcap(reply: str) -> str:
    """medcap 2024's rule: right when the letters "right" occur anywhere (chat_llama3_quant.py, line 103).

    Args:
        reply: the judge's words.

    Returns:
        ``RIGHT`` or ``WRONG``; "WRONG, it is the right lung" is RIGHT.
    """
    return RIGHT if "right" in reply.lower() else WRONG


PARSINGS: dict[str, Callable[[str], str]] = {STRICT: parse_strict, "medcap": parse_medcap}
