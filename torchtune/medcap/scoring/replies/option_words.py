"""Where a reply names an option by its words or its number."""

from __future__ import annotations

import re
from functools import lru_cache

from medcap.scoring.replies.denial import HIDDEN, Denial, denial
from medcap.scoring.replies.numbers import number_in
from medcap.scoring.replies.reply_text import CJK

_LOOK = 8  # characters around a number that may belong to it
_NUMBER = re.compile(r"(?:(?<![\w)])[+-])?(?:[0-9]+(?:\.[0-9]+)?)")
# Characters that make a number part of another one: "12.25", "1,000", "1/2", "2-3", "2 to 3", "-2", "<2", "2%", "2:30",
# "10^2".
_NUMBER_GOES_ON = re.compile(r"[.,:/^×][0-9]|\s?(?:[-–—/×]|to)\s?[0-9]|\s?[%‰½⅓¼¾]|[²³¹⁰⁴-⁹]", re.IGNORECASE)
_NUMBER_BEGAN = re.compile(
    r"(?:[0-9][.,:/^×]|[0-9]\s?(?:[-–—/×]|to)\s?|(?<![\w)])[+-]|[<>≤≥]\s?|(?<![0-9])[.,])$", re.IGNORECASE
)
# Not between numbers: "2-3" is not "23".
_BETWEEN_WORDS = re.compile(r"((?<=[^\W\d])[- ](?=\w)|(?<=\w)[- ](?=[^\W\d]))")
_DENYING_OPTIONS = frozenset(("no", "not", "none", "never", "neither", "without"))
# "No doubt" does not say no.
_NO_ANSWER = re.compile(
    r"no (?:doubt|question|wonder|problem|worries|matter|need|idea|clue|longer|way to (?:tell|know|say))\b", re.I
)


def named_options(text: str, options: list[str]) -> tuple[set[int], str]:
    """Find the options whose text is in a reply as whole words and is not denied there.

    Where one option's text is part of another's ("fracture", "no fracture"), the longer one is looked for first.

    Args:
        text: a cleaned reply.
        options: cleaned texts; an empty one is never found.

    Returns:
        The options' positions, and the reply with all their texts hidden.
    """
    hidden = denying = text
    spans: list[tuple[int, int, int]] = []
    for index in sorted(range(len(options)), key=lambda index: -len(options[index])):
        option = options[index].strip(" .,:;")
        if len(option) == 1 and option.isalpha():
            continue
        own = positions(hidden, option)
        spans += [(index, start, end) for start, end in own]
        hidden = _hide(hidden, own)
        # "Absent" as an option denies nothing; "no" does so among Yes and No, too.
        if option.lower() not in _DENYING_OPTIONS:
            denying = _hide(denying, own)
    named: set[int] = set()
    for index, start, end in sorted(spans, key=lambda span: span[1]):
        found = denial(denying, start, end)
        if found is Denial.NONE:
            named.add(index)
        # [Contract] what is said not to be the answer is not named by an earlier mention.
        elif found is Denial.TRUTH:
            named.discard(index)
    return named, hidden


def _hide(text: str, spans: list[tuple[int, int]]) -> str:
    ends = [0, *(end for _, end in spans)]
    shown = [text[end:start] + HIDDEN * (stop - start) for end, (start, stop) in zip(ends, spans, strict=False)]
    return "".join(shown) + text[ends[-1] :]


def positions(text: str, option: str) -> list[tuple[int, int]]:
    """Find an option's text as whole words, whatever the case, the line ends, and hyphens instead of spaces.

    A number is found by its value, as a whole: 2 is in "2.0 cm", but not in "2.5", "-2", "2 %" or "2-3".

    Args:
        text: a cleaned reply.
        option: a cleaned text.

    Returns:
        Where it begins and ends, in order.
    """
    text = text.replace("\n", " ")
    if (number := number_in(option)) is not None:
        spans = [match.span() for match in _NUMBER.finditer(text) if number_in(match[0]) == number]
    else:
        spans = [match.span() for match in _words(option).finditer(text.lower())] if option else []
    return [(start, end) for start, end in spans if _whole(text, start, end) and not _NO_ANSWER.match(text, start)]


@lru_cache(maxsize=1 << 12)
def _words(option: str) -> re.Pattern[str]:
    parts = _BETWEEN_WORDS.split(option.replace("\n", " ").lower())
    # "X-ray" is "x ray" and "xray" too; two words are never written as one.
    joints = {"-": "[- ]?", " ": "[- ]"}
    return re.compile("".join(joints[part] if position % 2 else re.escape(part) for position, part in enumerate(parts)))


def _whole(text: str, start: int, end: int) -> bool:
    before, after = text[max(0, start - _LOOK) : start], text[end : end + _LOOK]
    if _joins(text[start - 1 : start], text[start]) or _joins(text[end : end + 1], text[end - 1]):
        return False
    if text[start].isdigit() and _NUMBER_BEGAN.search(before):
        return False
    return not (text[end - 1].isdigit() and _NUMBER_GOES_ON.match(after))


def _joins(outside: str, edge: str) -> bool:
    """Return whether a character continues the word next to it. Chinese next to a Latin word does not."""
    return outside.isalnum() and (not _is_cjk(outside) or _is_cjk(edge))


@lru_cache(maxsize=1 << 12)
def _is_cjk(character: str) -> bool:
    return re.match(f"[{CJK}]", character) is not None
