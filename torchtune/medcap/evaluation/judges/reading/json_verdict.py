"""Verdicts that a judge gives as JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from medcap.evaluation.judges.reading.verdict_words import RIGHT, VERDICTS, WRONG, leading_verdict

# A reply has one object or a few; a limit keeps braces without end from taking time.
_MOST_OBJECTS = 20
_LETTERS = re.compile(r"[^a-z]+")
_VERDICT_KEY = re.compile(r"verdict|judge?ment|decision")
# Such as "correct", "is_correct", "prediction_correct": true or false says the verdict.
_CORRECTNESS_KEY = re.compile(
    r"(?:is|was)?(?:the)?(?:answer|predicted|prediction|response)?(?:is)?(?P<word>right|correct|wrong|incorrect)(?:ly|ness)?"
)
# These repeat what was asked about.
_ECHO_KEY = re.compile(r"question|predict|reference|expected|truth|ouranswer|correctanswer")
_BOOLEANS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_CUT_OFF = re.compile(r"""["'](?P<key>\w+)["']\s*:\s*["']?(?P<value>true|false)\b""", re.IGNORECASE)


def json_verdicts(text: str) -> tuple[set[str], str]:
    """Read the verdicts of the JSON objects in a text.

    Args:
        text: may hold words, code fences and objects; an object may be cut off.

    Returns:
        The verdicts, none or one or both, and the text without the objects.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_Pairs)
    found: set[str] = set()
    rest, start = [], 0
    for _ in range(_MOST_OBJECTS):
        brace = text.find("{", start)
        if brace < 0:
            break
        try:
            pairs, end = decoder.raw_decode(text, brace)
            found |= _of_pairs(pairs)
        except (ValueError, RecursionError):
            rest.append(text[start : brace + 1])
            start = brace + 1
            continue
        rest.append(text[start:brace])
        start = end
    left = "".join([*rest, text[start:]])
    for match in _CUT_OFF.finditer(left):
        found.update((*_of_verdict_key(*match.groups()), *_of_boolean(*match.groups())))
    return found, left


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its pairs: the second of two equal keys does not replace the first."""


def _of_pairs(pairs: _Pairs) -> set[str]:
    """Return the verdicts under the keys that say most: verdict, then correct, then any other."""
    for read in (_of_verdict_key, _of_boolean, _of_other_key):
        found = {verdict for key, value in pairs for verdict in read(key, value)}
        if found:
            return found
    return {verdict for _, value in pairs for item in _objects(value) for verdict in _of_pairs(item)}


def _of_verdict_key(key: str, value: Any) -> Iterator[str]:
    if not _VERDICT_KEY.search(_plain(key)):
        return
    values = value if type(value) is list else [value]
    for item in values:
        verdict = _truth(item)
        if verdict is not None:
            yield RIGHT if verdict else WRONG
        elif isinstance(item, str) and (leading := leading_verdict(item)):
            yield leading


def _of_boolean(key: str, value: Any) -> Iterator[str]:
    match = _CORRECTNESS_KEY.fullmatch(_plain(key))
    verdict = VERDICTS.get(match["word"]) if match else None
    if verdict is None:
        return
    truth = _truth(value)
    if truth is not None:
        yield verdict if truth else (WRONG if verdict == RIGHT else RIGHT)
    elif isinstance(value, str) and (stated := _stated(value)):
        yield stated
    elif isinstance(value, str) and key in (RIGHT, WRONG):
        yield verdict  # {"WRONG": "The mass is in the left lung."}


def _of_other_key(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, str) and not _ECHO_KEY.search(_plain(key)) and (stated := _stated(value)):
        yield stated


def _stated(value: str) -> str | None:
    """Return the verdict that a text is; "right" in small letters may be the side that was asked for."""
    word = value.strip(" .!")
    return None if word == "right" else VERDICTS.get(word.lower())


def _objects(value: Any) -> Iterator[_Pairs]:
    if isinstance(value, _Pairs):
        yield value
    elif isinstance(value, list):
        yield from (item for item in value if isinstance(item, _Pairs))


def _truth(value: Any) -> bool | None:
    return _BOOLEANS.get(str(value).strip().lower()) if isinstance(value, bool | int | str) else None


def _plain(key: str) -> str:
    return _LETTERS.sub("", key.lower())
