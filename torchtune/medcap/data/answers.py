"""What the assistant says in a sample for training."""

from __future__ import annotations

import unicodedata

from torchtune.data import Message

from medcap.errors import UserError

_INVISIBLE = ("Cc", "Cf", "Zl", "Zp", "Zs")  # Unicode's categories of control characters, format marks and blanks


def check_answers(messages: list[Message]) -> None:
    """See that the assistant says something in every one of its turns.

    Args:
        messages: the turns of a sample for training.

    Raises:
        UserError: if not: an empty turn would teach to end an answer before it begins.
    """
    silent = [message.role == "assistant" and not _says_something(message) for message in messages]
    if any(silent) and sum(silent) == sum(message.role == "assistant" for message in messages):
        raise UserError("no token is left to learn: the assistant says nothing")
    if any(silent):
        raise UserError(
            f"the assistant says nothing in turn {silent.index(True) + 1} of {len(messages)}: write an answer there, or"
            " remove the turn and its question"
        )


def _says_something(message: Message) -> bool:
    words = "".join(part["content"] for part in message.content if part["type"] == "text")
    return any(unicodedata.category(character) not in _INVISIBLE for character in words)
