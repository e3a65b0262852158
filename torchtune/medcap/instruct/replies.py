"""What a model's reply holds: a conversation, or a paragraph."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medcap.data.json_text import JsonError, parse_json
from medcap.datasets.published.fields import field_words
from medcap.datasets.rows.sharegpt import plain_words
from medcap.scoring.replies.final_reply import final_reply

Pair = tuple[str, str]
_ASKING = ("user", "human", "question", "q")
_ANSWERING = ("assistant", "gpt", "ai", "bot", "answer", "a")
_ROLE = re.compile(
    # "User:", "**User:**", "### Assistant 2:", "1. Q:", "- Human :"
    rf"^(?:[#>*_\- \t]|\d{{1,2}}[.)])*(?P<role>{'|'.join(_ASKING + _ANSWERING)})"
    r"[ \t]*\d{0,2}[ \t]*[*_]*[ \t]*[:：][*_]*",
    re.IGNORECASE | re.MULTILINE,
)
# "### User" or "**Assistant 2**", alone on a line.
_HEADING = re.compile(
    r"^[ \t]*(?:#{1,6}[ \t]*[*_]*|[*_]{2,3})(?P<role>user|human|question|assistant|gpt|ai|answer)"
    r"[ \t]*\d{0,2}[*_]*[ \t]*$",
    re.IGNORECASE | re.MULTILINE,
)
# What a model adds for whom it works for, in a paragraph of its own at the end.
_CLOSING = re.compile(
    r"\n[ \t]*\n[ \t]*(?:I hope (?:this|that|it)|(?:please )?(?:let me know|feel free to)|would you like me)\b[^\n]*\Z",
    re.IGNORECASE,
)
# LLaVA-Med's own rule: the marks count wherever they stand.
_INLINE_ROLE = re.compile(r"\b(?P<role>User|Assistant):")
_RULE = re.compile(r"^\s*(?:-{3,}|\*{3,}|_{3,}|={3,})\s*$", re.MULTILINE)
_REMARK = re.compile(
    r"\A\s*(?:(?:sure|certainly|of course|okay|ok)\b[^\n:]{0,80}[,.!:]\s*)?"
    r"(?:here(?:'s| is| are)[^\n:]{0,120}:|(?:rewritten |combined |final )?(?:paragraph|description|text)\s*:)\s*",
    re.IGNORECASE,
)
_LIST_OR_DIALOGUE = re.compile(r"^\s*(?:[-*•]\s|\d+[.)]\s|(?:question|answer|q|a|user|assistant)\s*:)", re.I | re.M)


@dataclass(frozen=True)
class Conversation:
    """What was read from a reply.

    Attributes:
        pairs: the questions and answers that are whole.
        malformed: how many turns have no partner or no words.
    """

    pairs: tuple[Pair, ...]
    malformed: int


class Unusable(Exception):
    """The reply does not hold what was asked for; the message is the reason, the same words for all of a kind."""


def read_conversation(reply: str, finish: str = "stop") -> Conversation:
    """Read the turns of a reply.

    Args:
        reply: everything that the model said. Reasoning, a code fence and words before the first turn are left out.
            Turns begin with ``User:`` and ``Assistant:`` or names like them, plain or as Markdown; or the reply is JSON
            with turns or with questions and answers.
        finish: why the reply ended. Of one that was cut off (``length``) the last answer is left out.

    Returns:
        The pairs; a placeholder for an image in them is taken out.

    Raises:
        Unusable: if there is not one pair.
    """
    text = final_reply(reply).strip()
    if not text:
        raise Unusable("the reply is empty")
    turns = list(_json_turns(text) or _text_turns(text))
    if not turns:
        raise Unusable("the reply has no turns of User and Assistant")
    pairs: list[Pair] = []
    malformed = 0
    question: str | None = None
    for asks, raw in turns:
        words = plain_words(raw)
        if asks:
            malformed += question is not None or not words
            question = words or None
        elif question is None or not words:
            malformed += 1
            question = None
        else:
            pairs.append((question, words))
            question = None
    malformed += question is not None
    if finish == "length" and pairs and question is None:
        pairs.pop()
        malformed += 1
    if not pairs:
        raise Unusable("the reply was cut off" if finish == "length" else "the reply has no whole question and answer")
    return Conversation(tuple(pairs), malformed)


def read_paragraph(reply: str, finish: str = "stop") -> str:
    """Read the paragraph of a reply.

    Args:
        reply: everything that the model said. Reasoning, a code fence and a remark before the paragraph are left out.
        finish: why the reply ended.

    Returns:
        The paragraph, on one line.

    Raises:
        Unusable: if it was cut off, is empty, or is a list or a dialogue.
    """
    text = _REMARK.sub("", final_reply(reply).strip(), count=1).strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()
    if not text:
        raise Unusable("the reply is empty")
    if finish == "length":
        raise Unusable("the reply was cut off")
    if len(_LIST_OR_DIALOGUE.findall(text)) > 1:
        raise Unusable("the reply is a list or a dialogue")
    return " ".join(plain_words(text).split())


def _text_turns(text: str) -> Iterator[tuple[bool, str]]:
    text = _CLOSING.sub("", _RULE.sub("", text).rstrip())
    text = _HEADING.sub(r"\g<role>:", text)
    marks = list(_ROLE.finditer(text))
    if len({_asks(mark["role"]) for mark in marks}) < 2:
        marks = list(_INLINE_ROLE.finditer(text))
    for number, mark in enumerate(marks):
        end = marks[number + 1].start() if number + 1 < len(marks) else len(text)
        yield _asks(mark["role"]), text[mark.end() : end].strip()


def _asks(role: str) -> bool:
    return role.lower() in _ASKING


def _json_turns(text: str) -> list[tuple[bool, str]]:
    """Return the turns of a reply that is JSON; none for anything else."""
    if text[:1] not in ("[", "{"):
        return []
    try:
        value = parse_json(text)
    except JsonError:
        return []
    if isinstance(value, Mapping):
        value = next((value[key] for key in ("conversations", "conversation", "messages", "turns") if key in value), [])
    return [turn for item in value for turn in _json_turn(item)] if isinstance(value, list) else []


def _json_turn(item: Any) -> list[tuple[bool, str]]:
    if not isinstance(item, Mapping):
        return []
    keys = {str(key).lower(): key for key in item}
    role = next((item[keys[key]] for key in ("from", "role", "speaker") if key in keys), None)
    if isinstance(role, str):
        words = next((item[keys[key]] for key in ("value", "content", "text") if key in keys), "")
        known = role.lower() in _ASKING + _ANSWERING
        return [(_asks(role), field_words(words))] if known else []
    named = [(_asks(key), field_words(item[own])) for key, own in keys.items() if key in _ASKING + _ANSWERING]
    return sorted(named, key=lambda turn: not turn[0])
