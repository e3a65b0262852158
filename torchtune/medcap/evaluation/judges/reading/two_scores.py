"""The two scores of a judge's reply that rates two answers."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from medcap.scoring.replies.final_reply import final_reply

Scores = tuple[float, float]

HIGHEST = 10.0  # the prompt asks for 1 to 10; a 0 does occur
_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_MOST_OBJECTS = 20
_LONGEST_SCORE = 40  # characters of a score and the words up to its label

# Runs of spaces are one space: patterns that skip spaces then take no time that grows with the square of a run.
_SPACES = re.compile(r"[^\S\n]+")
_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[\w-]*[ \t]*$", re.MULTILINE)
_MARKUP = re.compile(r"\\(?:boxed|text\w*|math\w+)\s*\{([^{}]*)\}")
_SIGNS = re.compile(r"[*`$\"“”„«»#\\]|</?[A-Za-z][^<>]{0,80}>")
_SPELLED = re.compile(rf"(?<![\w-])(?:{'|'.join(_WORDS)})(?![\w-])", re.IGNORECASE)
_OUT_OF_TEN = re.compile(r" ?(?:/|\bout of\b|\bof\b|\bvon\b|\bsur\b) ?10(?:\.0+)?(?![\d.,]*\d)", re.IGNORECASE)
_POINTS = re.compile(r"\b(?:points?|pts?|stars?)\b\.?", re.IGNORECASE)
# "Assistant 1", "Answer #2", "Response A": whose score follows. The digit of a label is no score.
_NAME = r"(?:(?:AI )?assistants?|answers?|responses?|models?|scores?|ratings?)"
_LABEL = re.compile(
    rf"(?:\b{_NAME}(?:'s)?[ _-]{{0,3}}(?:of|for|no\.?)?[ _-]{{0,3}}[#(\[]?(?P<number>[12])\b[)\]]?(?!\s*[.,]\d)"
    rf"|\b{_NAME}[ _-]{{0,3}}(?P<letter>(?-i:[AB]))\b"
    r"|\b(?:the )?(?P<ordinal>first|second)(?: (?:AI )?(?:assistant|answer|response|one))?\b"
    r"|^[ \t]*[(\[]?(?P<item>[12])[.):\]][ \t]+)",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = re.compile(r"(?<![\w.,-])[-−+]?\d+(?:[.,]\d+)?(?![\w%]|[.,–-]\d)")
# Between a label and its score stand a few words without a number ("'s overall score is", ":", "|"), or a line break.
_TO_SCORE = re.compile(
    r"(?:[^\d\n]{0,60}?|\W{0,5}\n(?:(?:overall )?(?:score|rating))?\W{0,5})(?=[-−+]?\d)", re.IGNORECASE
)
_SCORE_FOR = re.compile(rf"({_NUMBER.pattern}) ?(?:goes )?(?:for|to)(?: the)? ?\Z", re.IGNORECASE)
_EXPLAINS = re.compile(
    r"\b(?:mentions?|names?|says?|states?|describes?|because|contains?|has|lists?|with|than)\b", re.IGNORECASE
)
# After a number that is no score stands its unit; after a score the sentence may go on.
_UNIT = re.compile(r"[ \t]*(?!(?:and|but|while|whereas|for|because|as|since)\b)(?:[a-z]|%|/)", re.IGNORECASE)
_PAIR_WORDS = re.compile(
    r"\b(?:the|my|two|final|overall|scores?|ratings?|are|is|for|respectively|and|to|vs|versus|assistants?|output|result"
    r"|answer)\b",
    re.IGNORECASE,
)
_OVERALL = re.compile(r"\b(?:overall|final|total)\b", re.IGNORECASE)
_SCORE_KEY = re.compile(r"overall|score|rating|total|points|value", re.IGNORECASE)


def parse_two_scores(reply: str) -> Scores | None:
    """Read the scores of Assistant 1 and Assistant 2.

    The published form is a first line of two numbers. Read are also numbers that are labelled, in any order, in words,
    out of ten, with a comma for the point, as JSON, in code fences and markup, after an explanation, and behind
    reasoning in tags (see ``final_reply``). Scores are 0 to 10.

    Args:
        reply: the judge's words.

    Returns:
        The two scores; None where one is missing or out of the scale, or where the reply gives several that differ.

    Example:
        >>> parse_two_scores("Assistant 2: 6.5/10, Assistant 1: 8/10")
        (8.0, 6.5)
    """
    text = unicodedata.normalize("NFKC", final_reply(reply))
    text = _FENCE.sub("", _SPACES.sub(" ", text))
    lines = _lines(text)
    # The published rule: the first line, whatever comes below it.
    if lines and (first := _pair_of_line(lines[0])) is not None:
        return _checked(first)
    values, rest = _json_values(text)
    found = [scores for value in values if (scores := _of_json(value)) is not None]
    if found:
        return _only(found)
    lines = _lines(rest)
    pairs = [pair for line in lines if (pair := _pair_of_line(line)) is not None]
    if pairs:
        return _only(pairs)
    if (before := _before_labels("\n".join(lines))) is not None:
        return _checked(before)
    if (labelled := _labelled("\n".join(lines))) is not None:
        return _only(labelled)
    alone = [_numbers(line) if not _LABEL.search(line) and _is_bare(line) else [] for line in lines[:2]]
    if [len(numbers) for numbers in alone] == [1, 1]:
        return _checked((alone[0][0], alone[1][0]))
    return None


def _plain(text: str) -> str:
    for _ in range(2):
        text = _MARKUP.sub(r"\1", text)
    text = _SIGNS.sub("", text)
    text = _SPELLED.sub(lambda match: str(_WORDS.index(match[0].lower())), text)
    return _POINTS.sub("", _OUT_OF_TEN.sub("", text))


def _lines(text: str) -> list[str]:
    return [line.strip() for line in _plain(text).splitlines() if line.strip()]


def _numbers(text: str) -> list[float]:
    """Return the numbers of a text; a lone ``8,7`` is two scores, as the older parsers of LLaVA read it."""
    found = [match[0] for match in _NUMBER.finditer(text)]
    if len(found) == 1 and "," in found[0]:
        found = found[0].split(",")
    return [float(number.replace(",", ".").replace("−", "-")) for number in found]


def _pair_of_line(line: str) -> Scores | None:
    """Return the two numbers of a line that has nothing else to say."""
    if _LABEL.search(line):
        names = [_place(match) for match in _LABEL.finditer(line)]
        after = line[list(_LABEL.finditer(line))[-1].end() :]
        # "Scores for Assistant 1 and 2: 8 7"
        if names != [0] or not (rest := re.match(r"\s*(?:and|&|,|/)\s*(?:\w+ )?2\b(.*)", after)):
            return None
        line = rest[1]
    if not _is_bare(line):
        return None
    numbers = _numbers(line)
    return (numbers[0], numbers[1]) if len(numbers) == 2 else None


def _is_bare(line: str) -> bool:
    return re.search(r"[^\W\d_]|[/%]", _PAIR_WORDS.sub("", line)) is None


def _labelled(text: str) -> list[Scores] | None:
    """Return the pairs of labelled scores, those of lines about the whole if there are any; None without labels."""
    given: tuple[list[float], list[float]] = ([], [])
    overall: tuple[list[float], list[float]] = ([], [])
    marks = list(_LABEL.finditer(text))
    ends = [*(mark.start() for mark in marks[1:]), len(text)]
    for mark, end in zip(marks, ends, strict=False):
        gap = _TO_SCORE.match(text, mark.end(), end)
        number = _NUMBER.match(text, gap.end(), end) if gap else None
        if number is None or not _fits(gap[0] if gap else "", text, number.end()):
            continue
        value = float(number[0].replace(",", ".").replace("−", "-"))
        given[_place(mark)].append(value)
        start = text.rfind("\n", 0, mark.start()) + 1
        if _OVERALL.search(text[start : number.start()]):
            overall[_place(mark)].append(value)
    chosen = overall if all(overall) else given
    if not any(chosen):
        return None
    if not all(chosen) or any(len(set(values)) > 1 for values in chosen):
        return []
    return [(chosen[0][0], chosen[1][0])]


def _before_labels(text: str) -> Scores | None:
    """Return the scores of a text in which each label has its own before it: "8 for Assistant 1, 7 for Assistant 2"."""
    labels = list(_LABEL.finditer(text))
    given: dict[int, list[float]] = {0: [], 1: []}
    for label in labels:
        number = _SCORE_FOR.search(text[max(0, label.start() - _LONGEST_SCORE) : label.start()])
        if number is None:
            return None
        given[_place(label)].append(float(number[1].replace(",", ".")))
    if [len(values) for values in given.values()] != [1, 1]:
        return None
    return given[0][0], given[1][0]


def _fits(gap: str, text: str, end: int) -> bool:
    """Return whether a number after a label is a score: "Assistant 1 mentions 3 nodules" is none."""
    return _EXPLAINS.search(gap) is None and _UNIT.match(text, end) is None


def _place(match: re.Match[str]) -> int:
    name = (match["number"] or match["letter"] or match["ordinal"] or match["item"]).lower()
    return int(name in ("2", "b", "second"))


def _only(found: Sequence[Scores]) -> Scores | None:
    """Return the one pair that was found; None where there are different ones."""
    return _checked(found[0]) if len(set(found)) == 1 else None


def _checked(scores: Scores) -> Scores | None:
    return scores if all(0.0 <= score <= HIGHEST for score in scores) else None


def _json_values(text: str) -> tuple[list[Any], str]:
    """Return the JSON objects of a text, or the list that it begins with, and the text without them."""
    decoder, values, rest, start = json.JSONDecoder(), [], [], 0
    text = text.strip()
    for _ in range(_MOST_OBJECTS):
        # A list further on may be a citation: [1, 2].
        place = 0 if start == 0 and text.startswith("[") else text.find("{", start)
        if place < 0:
            break
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            rest.append(text[start : place + 1])
            start = place + 1
            continue
        values.append(value)
        rest.append(text[start:place])
        start = end
    return values, "".join([*rest, text[start:]])


def _of_json(value: Any) -> Scores | None:
    """Return the two scores of a JSON value; None where it holds none."""
    if isinstance(value, Mapping):
        own: list[list[float]] = [[], []]
        for key, item in value.items():
            place = _place_of_key(str(key))
            if place is not None and (score := _score_of(item)) is not None:
                own[place].append(score)
        if all(len(scores) == 1 for scores in own):
            return own[0][0], own[1][0]
        found = [scores for item in value.values() if (scores := _of_json(item)) is not None]
        return found[0] if len(set(found)) == 1 else None
    if isinstance(value, list) and len(value) == 2:
        scores = [_score_of(item) for item in value]
        if scores[0] is not None and scores[1] is not None:
            names = [_place_of_item(item) for item in value]
            return (scores[1], scores[0]) if names == [1, 0] else (scores[0], scores[1])
    return None


def _place_of_key(key: str) -> int | None:
    match = re.search(r"(?:^|[^\d])([12])(?:[^\d]|$)|(?:^|[ _])([ab])$|(first|second)", key.lower())
    return None if match is None else int((match[1] or match[2] or match[3]) in ("2", "b", "second"))


def _place_of_item(item: Any) -> int | None:
    for key, name in item.items() if isinstance(item, Mapping) else ():
        # {"assistant": 2, "score": 7}: the number is a name where the key is none of a score.
        numbered = type(name) is int and name in (1, 2) and not _SCORE_KEY.search(str(key))
        if (isinstance(name, str) or numbered) and (place := _place_of_key(str(name))) is not None:
            return place
    return None


def _score_of(item: Any) -> float | None:
    if isinstance(item, bool):
        return None
    if isinstance(item, int | float):
        return float(item)
    if isinstance(item, str):
        plain = _plain(unicodedata.normalize("NFKC", item))
        numbers = [float(number[0].replace(",", ".")) for number in _NUMBER.finditer(plain)]
        return numbers[0] if len(numbers) == 1 and _is_bare(plain) else None
    if isinstance(item, Mapping):
        named = [
            score for key, part in item.items() if _SCORE_KEY.search(key) and (score := _score_of(part)) is not None
        ]
        return named[0] if len(named) == 1 else None
    return None
