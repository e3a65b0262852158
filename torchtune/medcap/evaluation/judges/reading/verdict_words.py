"""The words that are a verdict, and a verdict that is at the beginning of a text."""

from __future__ import annotations

import re

RIGHT = "RIGHT"
WRONG = "WRONG"
UNPARSED = "UNPARSED"

# Judges answer an English prompt; Chinese models sometimes answer in Chinese.
VERDICTS = {
    "right": RIGHT,
    "correct": RIGHT,
    "wrong": WRONG,
    "incorrect": WRONG,
    "正确": RIGHT,
    "不正确": WRONG,
    "错误": WRONG,
}
WORD = rf"(?<!\w)(?P<word>{'|'.join(VERDICTS)})(?!\w)"

# What may come after a verdict: the end, a mark, or the beginning of a reason. "the right lung" goes on.
_END = re.compile(
    r"[ \t]*(?:$|\n|[.,:;!?()\[\]{}…—–→])|[ \t]+-|-[ \t]|[ \t]+(?:because|since|as|for|due)\b", re.IGNORECASE
)
_LEADING = re.compile(rf"\W*(?:\d{{1,3}}[.)]\W*)?{WORD}", re.IGNORECASE)
_SENTENCE_END = re.compile(r"[ \t]*(?:[.!]|\n)")
_HAS_WORDS = re.compile(r"[^\W_]")


def verdict_of(match: re.Match[str]) -> str:
    """Return the verdict that a match of ``WORD`` is."""
    return VERDICTS[match["word"].lower()]


def is_side(match: re.Match[str]) -> bool:
    """Return whether the word may mean the right side: "right" in small letters."""
    return match["word"] == "right"


def ends_after(match: re.Match[str]) -> bool:
    """Return whether a verdict may end after a match: a noun that follows makes it an adjective."""
    return _END.match(match.string, match.end()) is not None


def has_words(text: str) -> bool:
    """Return whether a text has a letter or a digit."""
    return _HAS_WORDS.search(text) is not None


def leading_verdict(text: str) -> str | None:
    """Read a verdict that a text begins with, alone or with a reason after it.

    Args:
        text: text without markup.

    Returns:
        ``RIGHT``, ``WRONG`` or None.
    """
    match = _LEADING.match(text)
    if match is None:
        return None
    if not has_words(text[match.end() :]):
        return verdict_of(match)
    if is_side(match):
        return RIGHT if _SENTENCE_END.match(text, match.end()) else None
    return verdict_of(match) if ends_after(match) else None
