"""The tokenizer of a language model, as far as chats need it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Tokenizer(Protocol):
    """What is needed of a torchtune tokenizer."""

    max_seq_len: int | None
    # Their further arguments differ from tokenizer to tokenizer.
    encode: Callable[..., list[int]]
    decode: Callable[..., str]
    tokenize_messages: Callable[..., tuple[list[int], list[bool]]]

    @property
    def eos_id(self) -> int: ...


def vocab_size_of(tokenizer: Any) -> int:
    """Return one more than the largest id that a text can have."""
    size = getattr(tokenizer, "base_vocab_size", None) or getattr(tokenizer, "vocab_size", None)
    special = getattr(tokenizer, "special_tokens", None) or {}
    # torchtune's Llama-3 table lists <|image|> one past the embedding rows; only reachable ids count.
    ids = [token for name, token in special.items() if name != "<|image|>"]
    return max([size or 0, *(token + 1 for token in ids)])
