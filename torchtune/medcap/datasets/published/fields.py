"""Fields of published files as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any

from medcap.data.row_layouts import PLACEHOLDER

_ARTICLE = re.compile(r"(?:the|an?)\s+(?=\S)", re.IGNORECASE)


def field_text(value: Any) -> str:
    """Give a field as text; "" for one that is null, NaN or infinite."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return ""
    return str(value).strip()


def field_words(value: Any) -> str:
    """Give the words of a question, an answer or an option; "" for what is neither text nor a finite number."""
    return field_text(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else ""


def question_text(value: Any) -> str:
    """Give a question's words, without what stands for an image."""
    return field_words(value).replace("<image>", " ").replace(PLACEHOLDER, " ").strip()


def ask_for(question: str, phrase: str) -> str:
    """Put the name of an object into a question, without an article of its own behind the question's "the".

    Args:
        question: with ``{}`` for the name.
        phrase: the name: "liver", or "the large one".
    """
    before, gap, behind = question.partition("{}")
    if before.lower().endswith("the "):
        phrase = without_article(phrase)
    return f"{before}{phrase}{behind}" if gap else question


def without_article(phrase: str) -> str:
    """Return the name of an object without "the", "a" or "an" before it."""
    return _ARTICLE.sub("", phrase, count=1) if _ARTICLE.match(phrase) else phrase


def option_texts(values: Iterable[Any]) -> tuple[str, ...]:
    """Give options in their order, without empty ones; "nan" is what pandas made of an empty one."""
    texts = (field_words(value) for value in values)
    return tuple(text for text in texts if text and text.lower() != "nan")
