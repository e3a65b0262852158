"""Llama 3's tokenizer.model out of a tokenizer.json, for folders that have only the latter."""

from __future__ import annotations

import base64
from pathlib import Path

from medcap.errors import UserError
from medcap.models.towers.tensor_files import read_json

_BOS = "<|begin_of_text|>"


def tokenizer_model(file: Path) -> str | None:
    """The lines of base64 and rank that torchtune reads.

    Both formats hold the same byte pairs: tiktoken merges to the token of the lowest rank, Hugging Face by the order of
    the merges, so the two agree where that order is the tokens' own.

    Args:
        file: tokenizer.json.

    Returns:
        The text; None if the file is not there, or of another tokenizer than Llama 3's kind.

    Raises:
        UserError: if the file is damaged.
    """
    if not file.is_file():
        return None
    content = read_json(file)
    model = content.get("model") or {}
    vocabulary, merges = model.get("vocab"), model.get("merges")
    special = {token.get("content"): token.get("id") for token in content.get("added_tokens") or ()}
    if model.get("type") != "BPE" or not isinstance(vocabulary, dict) or special.get(_BOS) is None:
        return None
    ranks = {token: rank for token, rank in vocabulary.items() if rank < special[_BOS]}
    if sorted(ranks.values()) != list(range(special[_BOS])) or not _in_order(ranks, merges or []):
        raise UserError(f"{file} is a tokenizer that tokenizer.model cannot hold: give the original one as --tokenizer")
    letters = _letter_bytes()
    lines = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        spelled = base64.b64encode(bytes(letters[letter] for letter in token)).decode()
        lines.append(f"{spelled} {ranks[token]}\n")
    return "".join(lines)


def _in_order(ranks: dict[str, int], merges: list[str | list[str]]) -> bool:
    """Whether the merges make the tokens in the order of their ranks."""
    made = ["".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    places = [ranks.get(token, -1) for token in made]
    return bool(places) and places == sorted(places) and places[0] >= 0


def _letter_bytes() -> dict[str, int]:
    """The byte that each printable letter of byte-level BPE stands for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
