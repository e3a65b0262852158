"""The questions and answers in LLaVA's turns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medcap.datasets.published.fields import field_words
from medcap.errors import UserError


def conversation_questions(turns: Any, key: str) -> Iterator[tuple[str, str]]:
    """Yield the questions and answers of LLaVA's turns.

    Args:
        turns: the value of ``conversations``.
        key: its name, for messages.

    Yields:
        A question and its answer, unchanged.

    Raises:
        UserError: if they are not pairs of ``human`` and ``gpt``.
    """
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) and "value" in turn for turn in turns):
        raise UserError(f"'{key}' must be a list of turns with 'from' and 'value'")
    turns = [turn for turn in turns if turn.get("from") != "system"]
    if len(turns) < 2 or len(turns) % 2:
        raise UserError(f"'{key}' must be pairs of a question and an answer")
    for asked, answered in zip(turns[::2], turns[1::2], strict=True):
        if asked.get("from") not in ("human", "user") or answered.get("from") not in ("gpt", "assistant"):
            raise UserError(f"'{key}' must alternate 'human' and 'gpt'")
        yield field_words(asked["value"]), field_words(answered["value"])
