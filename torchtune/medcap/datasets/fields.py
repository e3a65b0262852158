"""Fields of published files as text."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from medcap.data.conversations import PLACEHOLDER


def field_text(value: Any) -> str:
    """A field as text; "" for one that is null or not a number."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value).strip()


def question_text(value: Any) -> str:
    """A question's words, without what stands for an image."""
    return field_text(value).replace("<image>", " ").replace(PLACEHOLDER, " ").strip()


def option_texts(values: Iterable[Any]) -> tuple[str, ...]:
    """Options in their order, without empty ones; "nan" is what pandas made of an empty one."""
    texts = (field_text(value) for value in values)
    return tuple(text for text in texts if text and text.lower() != "nan")
