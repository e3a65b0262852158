"""Phrases that show that a model read about an image instead of seeing it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.data.json_text import JsonError, parse_json
from medcap.errors import UserError

PHRASES = Path(__file__).with_name("phrases.json")
SOURCE = "{source}"
# Between a subject and one of these no comma stays: "the mass, as described in the text, is large".
_VERBS = (
    r"(?:is|are|was|were|has|have|had|do|does|did|can|could|may|might|must|should|will|would|shows?|showed|seems?|"
    r"appears?|appeared|measures?|measured|represents?|represented|demonstrates?|demonstrated|reveals?|revealed|"
    r"suggests?|suggested|indicates?|indicated|contains?|contained|extends?|extended|involves?|involved)"
)
_LISTS = ("sources", "cannot_see", "prefixes", "inner", "answer_words", "question_words")


@dataclass(frozen=True)
class Phrases:
    """The phrases, ready to search for; without regard to case, kind of apostrophe and length of blanks.

    Attributes:
        cannot_see: an answer that does not answer.
        prefix: the beginning of a sentence that names its source, and the first letter of the rest as ``next``.
        inner: the same within a sentence, with a bracket or a comma around it.
        answer_word: a word that no answer may have.
        question_word: a word that no question may have.
    """

    cannot_see: re.Pattern[str]
    prefix: re.Pattern[str]
    inner: re.Pattern[str]
    answer_word: re.Pattern[str]
    question_word: re.Pattern[str]


def read_phrases(path: Path = PHRASES) -> Phrases:
    """Read lists of phrases.

    Args:
        path: JSON: ``sources`` and the lists in which ``{source}`` stands for any of these: ``cannot_see``,
            ``prefixes``, ``inner``; and the lists of parts of words ``answer_words`` and ``question_words``.

    Raises:
        UserError: if a list is missing, or holds something else than text.
    """
    try:
        content: Any = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, JsonError) as error:
        raise UserError(f"--phrases {path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    lists = content if isinstance(content, dict) else {}
    for name in _LISTS:
        held = lists.get(name)
        if not isinstance(held, list) or not all(isinstance(text, str) and text.strip() for text in held):
            raise UserError(f"--phrases {path}: '{name}' must be a list of texts, as in medcap/instruct/phrases.json")
    sources = _any(lists["sources"], "")

    def phrases(name: str) -> str:
        return _any(lists[name], sources)

    flags, inner = re.IGNORECASE, phrases("inner")
    return Phrases(
        cannot_see=re.compile(rf"(?<!\w)(?:{phrases('cannot_see')})(?!\w)", flags),
        prefix=re.compile(rf"(?:\A\W*|(?<=[.!?])\s+)(?:{phrases('prefixes')})\s+(?P<next>\w?)", flags),
        inner=re.compile(
            rf"\s*\(\s*(?:{inner})\s*\)|\s*,\s*(?:{inner})\s*,(?=\s+{_VERBS}\b)|\s*,?\s*(?<!\w)(?:{inner})(?!\w)",
            flags,
        ),
        answer_word=re.compile(_any(lists["answer_words"], ""), flags),
        question_word=re.compile(_any(lists["question_words"], ""), flags),
    )


def _any(phrases: Sequence[str], sources: str) -> str:
    """Return a pattern for any of the phrases, longer ones first; one that matches nothing where there is none."""
    if not phrases:
        return "(?!)"
    parts = (_one(phrase, sources) for phrase in sorted(phrases, key=len, reverse=True))
    return f"(?:{'|'.join(parts)})"


def _one(phrase: str, sources: str) -> str:
    words = " ".join(phrase.replace("’", "'").split())
    pattern = re.escape(words).replace(r"\ ", r"\s+").replace("'", "['’]")
    return pattern.replace(re.escape(SOURCE), sources or "(?!)")
