"""medcap 2024's prompts and token limits, for reproducing its numbers.

That system wrote the chat template as text and encoded the text, so its markers became ordinary tokens; its limits
count tokens of that encoding (custom_generate_func.py, lines 24-39 and 137-191, of myeongkyunkang/medcap at c8910f0).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Any

from torchtune.data import Message

from medcap.data.base_tokenizer import Tokenizer
from medcap.data.chat_marks import check_text
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.labels_and_image_tokens import TokenizedPrompt
from medcap.data.row_layouts import PLACEHOLDER
from medcap.errors import UserError

PROMPT_FORMATS = ("chat", "medcap_2024")
IMAGE = PLACEHOLDER * 50
ANSWER_LIMIT = 50
Turn = tuple[str, str]  # role and text


def plain_text(turns: Sequence[Turn]) -> str:
    """Llama 3's template written as text, the last turn left open."""
    text = "".join(f"<|start_header_id|>{role}<|end_header_id|>\n\n{words.strip()}<|eot_id|>" for role, words in turns)
    return text.removesuffix("<|eot_id|>")


def plain_text_tokens(tokenizer: Tokenizer, turns: Sequence[Turn]) -> list[int]:
    """Return the prompt as medcap 2024 encoded it: only the first token is special.

    Args:
        tokenizer: Llama 3's.
        turns: the conversation, the last turn the empty assistant's.

    Returns:
        The ids.
    """
    return tokenizer.encode(plain_text(turns), add_bos=True, add_eos=False)


def description_limit(
    tokenizer: Tokenizer, turns: Sequence[Turn], question: str, max_seq_len: int, max_new_tokens: int
) -> int:
    """Tokens that the description of the first stage may have.

    Room is kept for the question and its answer's header, which are asked after it.

    Args:
        tokenizer: Llama 3's.
        turns: turns of the first stage; the last turn is the empty one of the assistant.
        question: question of the second stage.
        max_seq_len: longest sequence of both stages.
        max_new_tokens: most tokens whatever the room.

    Returns:
        The limit; medcap generates one token even where it is 0 or less.
    """
    both_stages = len(tokenizer.encode(plain_text([*turns, ("user", ""), ("assistant", "")])))
    return min(max_seq_len - (both_stages + len(tokenizer.encode(question)) + 5), max_new_tokens)


def answer_limit(max_new_tokens: int) -> int:
    """Tokens that the answer of the second stage may have."""
    return min(ANSWER_LIMIT, max_new_tokens)


def room_for_description(
    chat: ChatTokenizer, messages: Sequence[Message], question: str, max_seq_len: int, max_new_tokens: int
) -> int:
    """Tokens that a description may have, for any projector and any language model.

    Args:
        chat: chat of the model.
        messages: messages of the first stage.
        question: question of the second stage.
        max_seq_len: longest sequence of both stages.
        max_new_tokens: most tokens whatever the room.

    Returns:
        :func:`description_limit` where the placeholder is a token of the vocabulary, as Llama 3 has it, and never
        more than both stages leave.
    """
    asked = [*messages, Message(role="assistant", content=""), Message(role="user", content=question)]
    limit = min(max_seq_len - len(chat.prompt(asked).tokens) - 5, max_new_tokens)
    if chat.image_token_id < chat.vocab_size:
        turns = [*text_turns(messages, repeat(50)), ("assistant", "")]
        limit = min(limit, description_limit(chat.tokenizer, turns, question, max_seq_len, max_new_tokens))
    return limit


def text_turns(
    messages: Sequence[Message], image_lengths: Iterable[int], surround: Callable[[str], str] = str
) -> list[Turn]:
    """Roles and words, each image as a run of placeholders, which ``surround`` may put between words."""
    lengths = iter(image_lengths)

    def text(part: Mapping[str, Any]) -> str:
        return surround(PLACEHOLDER * next(lengths)) if part["type"] == "image" else part["content"]

    return [(message.role, "".join(map(text, message.content))) for message in messages]


class PlainTextChat(ChatTokenizer):
    """Prompts as medcap 2024 encoded them (``prompt_format=medcap_2024``): the template's markers as ordinary text.

    Args:
        chat: the model's own; the placeholder must be a token of its vocabulary.

    Raises:
        UserError: if it is not.
    """

    def __init__(self, chat: ChatTokenizer) -> None:
        # Not the base's: the tokenizer underneath has been prepared already.
        self.__dict__.update(vars(chat))
        self.without_added = self if chat.added is None else PlainTextChat(chat.without_added)
        if chat.image_token_id >= chat.vocab_size:
            raise UserError(
                "prompt_format=medcap_2024 needs a tokenizer that has the placeholder character as one token, as"
                " Llama 3's does: use prompt_format=chat"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        build, arguments = super().__reduce__()
        return PlainTextChat, (build(*arguments),)

    def prompt(self, messages: list[Message], answer_prefix: str = "") -> TokenizedPrompt:
        parts = [part for message in messages for part in message.content]
        for part in parts:
            if part["type"] == "region":
                raise UserError("prompt_format=medcap_2024 knows no regions: use prompt_format=chat")
            if part["type"] != "image":
                check_text(part["content"])
        images, lengths = [part["content"] for part in parts if part["type"] == "image"], self.image_lengths(messages)
        turns = [*text_turns(messages, lengths, self.image_text), ("assistant", answer_prefix)]
        return TokenizedPrompt(plain_text_tokens(self.tokenizer, turns), images, lengths)

    def answer(self, text: str, end_of_turn: bool = True) -> list[int]:
        words = check_text(text).strip() + ("<|eot_id|>" if end_of_turn else "")
        return self.tokenizer.encode(words, add_bos=False, add_eos=False) if text.strip() else []

    def decode(self, token_ids: list[int]) -> str:
        """See :meth:`ChatTokenizer.decode`; the answer ends where it spells a marker."""
        ids = self.spoken(token_ids, self.stop_tokens)
        # Not the base's: torchtune takes markers out of the text, with which the place to cut would be lost.
        text = self.tokenizer.decode(ids, skip_special_tokens=False) if ids else ""
        return re.split(r"<\|\w+\|>", text, maxsplit=1)[0].strip()
