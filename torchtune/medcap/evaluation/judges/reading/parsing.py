"""From a judge's reply to a verdict."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator

from medcap.evaluation.judges.reading.json_verdict import json_verdicts
from medcap.evaluation.judges.reading.verdict_words import (
    RIGHT,
    UNPARSED,
    WORD,
    WRONG,
    ends_after,
    has_words,
    is_side,
    leading_verdict,
    verdict_of,
)
from medcap.scoring.replies.final_reply import final_reply

STRICT = "strict"

_FENCE = re.compile(r"^[ \t]*```[\w-]*[ \t]*$", re.MULTILINE)
_LATEX = re.compile(r"\\(?:boxed|fbox|text\w*|math\w+)\s*\{([^{}]*)\}")
# <verdict>, </s>, <|eot_id|>; the words themselves may be in angle brackets.
_TAG = re.compile(rf"<\|[^<>|]*\|>|</?(?!{WORD.replace('?P<word>', '?:')})[A-Za-z][^<>]{{0,80}}>", re.IGNORECASE)
_QUOTE = re.compile(r"(?<!\w)['‘’]|['‘’](?!\w)|[\"“”„«»*`#$]")

_ALONE = re.compile(rf"^[^\w\n]*{WORD}[^\w\n]*$", re.IGNORECASE | re.MULTILINE)
_LABELLED = re.compile(
    r"(?:^|[.!?;,(])[^\w\n]{0,20}(?:(?:so|therefore|thus|hence|the|my|final|overall) )*"
    r"(?P<label>verdict|judge?ment|decision|answer|result|conclusion|evaluation|assessment|label|output|response|grade|rating)"
    rf"[^\w\n]{{0,4}}(?:is\b)?[^\w\n]{{0,6}}{WORD}",
    re.IGNORECASE | re.MULTILINE,
)
_STATED = re.compile(
    r"(?<!\w)(?:(?:prediction|answer|response|it|this|that) (?:is|was)|(?:it|that)'s"
    r"|I(?:'d| would)? (?:say|judge|answer):?)(?P<denied>n't| not)?"
    rf"(?: (?:also|clearly|completely|hence|indeed|therefore|thus))? {WORD}",
    re.IGNORECASE,
)
_CONCLUDED = re.compile(rf"(?:\b(?:therefore|thus|hence|so|overall)\b|=>|→|⇒)[^\w\n]{{0,20}}{WORD}", re.IGNORECASE)
_WORD = re.compile(WORD, re.IGNORECASE)
_SAYS_ITSELF = re.compile(r"verdict|judge?ment|decision", re.IGNORECASE)
# "whether the prediction is correct" says nothing, and "the correct answer is RIGHT" is a side.
_NOT_STATED = re.compile(
    r"\b(?:if|whether|when|unless|would|could|should|not|correct|expected|reference|true|actual|gold|right)\b",
    re.IGNORECASE,
)
_DENIED_OR_SIDE = re.compile(r"\b(?:not|the|on|to|its|their)\s+$", re.IGNORECASE)
_EXPECTED = re.compile(r"\b(?:correct|expected|reference|true|actual|gold)\b", re.IGNORECASE)
_BEGINS_SENTENCE = re.compile(r"(?:^|[.!?;,(\n])\s*$")
_JOINS = re.compile(r"(?<!\w)(?:right|correct|wrong|incorrect)\W*(?:\b(?:or|and|vs)\b)?\W*$", re.IGNORECASE)


def parse_strict(reply: str) -> str:
    """Read a verdict if the reply has exactly one.

    Reasoning in tags is left out, see ``final_reply``. A verdict is RIGHT or WRONG (CORRECT and INCORRECT too), in any
    case and any markup, at the beginning of the reply, with or without a reason after it; on a line of its own; after
    "Verdict:" or "The prediction is"; in ``\\boxed{}``, or in JSON. A word within a reason, such as "the right lung was
    expected", is not a verdict.

    Args:
        reply: the judge's words.

    Returns:
        ``RIGHT``, ``WRONG``, or ``UNPARSED`` where there is no verdict, or both.
    """
    found, text = json_verdicts(unicodedata.normalize("NFKC", final_reply(reply)))
    text = _without_markup(text)
    found.update(_declared(text))
    if len(found) != 1:
        return UNPARSED
    (verdict,) = found
    return UNPARSED if _contradicts(text, verdict) else verdict


def parse_medcap(reply: str) -> str:
    """Read a verdict by medcap 2024's rule: the letters "right" occur anywhere (chat_llama3_quant.py, line 103).

    Args:
        reply: the judge's words; reasoning in tags, which judges of 2024 did not have, is left out.

    Returns:
        ``RIGHT`` or ``WRONG``; "WRONG, it is the right lung" is RIGHT.
    """
    return RIGHT if "right" in final_reply(reply).lower() else WRONG


PARSINGS: dict[str, Callable[[str], str]] = {STRICT: parse_strict, "medcap": parse_medcap}


def _without_markup(text: str) -> str:
    text = _FENCE.sub("", text)
    for _ in range(3):  # \boxed{\text{RIGHT}}
        text = _LATEX.sub(r"\n\1\n", text)
    return _QUOTE.sub("", _TAG.sub("\n", text)).replace("_", " ")


def _declared(text: str) -> Iterator[str]:
    """Every verdict that the text declares."""
    if leading := leading_verdict(text):
        yield leading
    for match in _ALONE.finditer(text):
        if not is_side(match):
            yield verdict_of(match)
    for match in _LABELLED.finditer(text):
        if ends_after(match) and (not is_side(match) or _SAYS_ITSELF.fullmatch(match["label"])):
            yield verdict_of(match)
    for match in _CONCLUDED.finditer(text):
        if ends_after(match) and not is_side(match):
            yield verdict_of(match)
    for match in _STATED.finditer(text):
        whole = not has_words(text[match.end() :])
        if ends_after(match) and (whole or not is_side(match)) and not _NOT_STATED.search(_sentence_before(match)):
            verdict = verdict_of(match)
            yield (WRONG if verdict == RIGHT else RIGHT) if match["denied"] else verdict


def _contradicts(text: str, verdict: str) -> bool:
    """Return whether the other verdict is in the text too, as a verdict and not within a reason."""
    for match in _WORD.finditer(text):
        if verdict_of(match) == verdict or not ends_after(match):
            continue
        before = _before(match)
        if match["word"].isupper():
            contradicts = not (_DENIED_OR_SIDE.search(before) or _EXPECTED.search(_sentence_before(match)))
        elif text.startswith(":", match.end()):
            continue  # "Correct: left lung" is a label
        else:
            contradicts = _BEGINS_SENTENCE.search(before) is not None
        if contradicts or _JOINS.search(before):
            return True
    return False


def _before(match: re.Match[str]) -> str:
    # Enough for the words that matter: a long reply must not take time that grows with its square.
    return match.string[max(0, match.start() - 100) : match.start()]


def _sentence_before(match: re.Match[str]) -> str:
    return re.split(r"[.!?\n]", _before(match))[-1]
