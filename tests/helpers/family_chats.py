"""Conversations of the families' tokenizers, as the project and as transformers see them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from torchtune.data import Message
from transformers import PreTrainedTokenizerFast

from helpers.chat_template_folders import chat_template_folder
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.models.template_tokenizer import transformers_tokenizer

ANSWERS = ("Clear lungs.", "Yes")
QUESTIONS = ("What is shown?", "Is it normal?")
SYSTEM = "Be brief."


@cache
def folder(family: str) -> Path:
    return chat_template_folder(family, Path(tempfile.mkdtemp()))


@cache
def chat_of(family: str) -> ChatTokenizer:
    return ChatTokenizer(transformers_tokenizer(str(folder(family))), 4)


@cache
def reference(family: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast.from_pretrained(folder(family))


def parts(*words: str) -> list[dict[str, Any]]:
    """A turn of texts and images, the latter written as ``IMAGE``."""
    return [
        {"type": "image", "content": "a.png"} if word == "IMAGE" else {"type": "text", "content": word}
        for word in words
    ]


def turns(*contents: Any, system: str = "") -> list[Message]:
    begun = [Message(role="system", content=system, masked=True)] if system else []
    roles = ("user", "assistant") * len(contents)
    return [
        *begun,
        *(
            Message(role=role, content=content, masked=role == "user")
            for role, content in zip(roles, contents, strict=False)
        ),
    ]


def plain(messages: list[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text_content} for message in messages]


CONVERSATIONS = {
    "one turn": turns(QUESTIONS[0], ANSWERS[0]),
    "two turns": turns(QUESTIONS[0], ANSWERS[0], QUESTIONS[1], ANSWERS[1]),
    "system": turns(QUESTIONS[0], ANSWERS[0], system=SYSTEM),
    "system, two turns": turns(QUESTIONS[0], ANSWERS[0], QUESTIONS[1], ANSWERS[1], system=SYSTEM),
    "images": turns(
        parts("IMAGE", "\nWhat is shown?"), ANSWERS[0], parts("Is ", "IMAGE", " like ", "IMAGE"), ANSWERS[1]
    ),
}
