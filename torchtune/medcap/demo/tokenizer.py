"""Trains a small tokenizer and writes it in the file format of Llama 3's ``tokenizer.model``."""

import base64
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torchtune.models.llama3._tokenizer import CL100K_PATTERN

from medcap.errors import UserError

SINGLE_BYTES = 256


def train_tiktoken_file(texts: Iterable[str], vocab_size: int, path: Path) -> int:
    """Train a byte-level BPE tokenizer with Llama 3's split pattern and write it as a tiktoken file.

    A line of the file is the base64 of a token's bytes and its rank; the 256 single bytes come first, then the
    merges in the order in which they were learnt, which is how tiktoken reads them back. Special tokens are not in
    the file: a Llama 3 tokenizer adds 256 of them after the last rank.

    Args:
        texts (Iterable[str]): what to learn the merges from.
        vocab_size (int): most tokens in the file, at least 256; fewer when the texts hold no more pairs.
        path (Path): file to write; its folder is made.

    Returns:
        int: number of tokens in the file. A language model over it has 256 more.

    Raises:
        UserError: when ``vocab_size`` is below 256.
    """
    if vocab_size < SINGLE_BYTES:
        raise UserError(f"vocab_size: must be at least {SINGLE_BYTES}, one token a byte, got {vocab_size}")
    tokens = [_token_bytes(token) for token in _ranked_tokens(train_bpe(texts, vocab_size))]
    lines = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".unfinished")
    unfinished.write_text(lines, encoding="ascii")
    os.replace(unfinished, path)
    return len(tokens)


def train_bpe(texts: Iterable[str], vocab_size: int):
    """Train the byte-level BPE model itself.

    Args:
        texts (Iterable[str]): what to learn the merges from.
        vocab_size (int): most tokens, single bytes included.

    Returns:
        tokenizers.Tokenizer: its ids are the ranks of :func:`train_tiktoken_file`.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(CL100K_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return bpe


def _ranked_tokens(bpe: Any) -> list[str]:
    vocabulary = json.loads(bpe.to_str())["model"]["vocab"]
    return sorted(vocabulary, key=vocabulary.get)


def _byte_of_letter() -> dict[str, int]:
    """Return the letters in which byte-level BPE spells bytes: printable Latin-1 as itself, the rest from U+0100 on.

    Source: the byte table of GPT-2's tokenizer, which ``tokenizers`` uses.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(SINGLE_BYTES) if byte not in printable]
    letters = {chr(byte): byte for byte in printable}
    return letters | {chr(0x100 + number): byte for number, byte in enumerate(others)}


_BYTE_OF_LETTER = _byte_of_letter()


def _token_bytes(token: str) -> bytes:
    return bytes(_BYTE_OF_LETTER[letter] for letter in token)
