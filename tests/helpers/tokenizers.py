"""A small tokenizer file in the format of Llama 3's tokenizer.model."""

from __future__ import annotations

import base64
from pathlib import Path

WORDS = (
    *("user", "assistant", "system", "\n\n", " the", " of", " and", " is", " in", " no", " with", " shows", " image"),
    *("Describe", "What", "Is", " there", " left", " right", " lung", " lungs", " clear", " chest", "Chest", "Yes"),
    *("No", "Normal", " circle", " square", " red", " green", " blue", " small", " large", " one", " two"),
)
PLACEHOLDER = "\u2460"


def tiny_ranks() -> dict[bytes, int]:
    """256 bytes, then every prefix of some words, so that each token merges from two earlier ones."""
    tokens = [bytes([byte]) for byte in range(256)]
    for word in (PLACEHOLDER, *WORDS):
        encoded = word.encode()
        tokens += [encoded[:end] for end in range(2, len(encoded) + 1) if encoded[:end] not in tokens]
    return {token: rank for rank, token in enumerate(tokens)}


def tiny_tokenizer_file(folder: Path) -> Path:
    """Write ``folder/tokenizer.model``.

    Args:
        folder: made if it does not exist.

    Returns:
        The file: a few hundred ranks; the placeholder character is one token.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "tokenizer.model"
    lines = [f"{base64.b64encode(token).decode()} {rank}\n" for token, rank in tiny_ranks().items()]
    file.write_text("".join(lines), encoding="ascii")
    return file


def tiny_vocab_size() -> int:
    """Embedding rows of an LLM for this tokenizer: its ranks and Llama 3's 256 special tokens."""
    return len(tiny_ranks()) + 256
