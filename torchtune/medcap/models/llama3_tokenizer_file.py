"""Where the file of a Llama 3 tokenizer is, and its tokenizer.model made of a tokenizer.json."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchtune.models.llama3._tokenizer import CL100K_PATTERN

from medcap.errors import UserError
from medcap.models.towers.tensor_files import read_json

_BOS = "<|begin_of_text|>"
_JSON = "tokenizer.json"
# Below a model's folder, the original first: Meta's own download, and what most copies of it on the hub have.
_PLACES = ("original/tokenizer.model", "tokenizer.model", _JSON)


def find_tokenizer_file(path: str | Path) -> Path:
    """Return the file that a tokenizer's path means.

    Args:
        path: a tokenizer.model, a tokenizer.json, or a model's folder. Where ``FOLDER/original/tokenizer.model`` or
            ``FOLDER/tokenizer.model`` is missing, ``FOLDER/tokenizer.json`` is used instead.

    Returns:
        The file; ``path`` where nothing is found.
    """
    path = Path(path)
    if path.is_dir():
        return next((path / location for location in _PLACES if (path / location).is_file()), path)
    if path.is_file() or path.name != "tokenizer.model":
        return path
    folder = path.parent.parent if path.parent.name == "original" else path.parent
    return folder / _JSON if (folder / _JSON).is_file() else path


@contextmanager
def tiktoken_file(path: str | Path) -> Generator[Path]:
    """Yield a tokenizer file in the format of tokenizer.model; it exists while the block runs.

    Args:
        path: path as for :func:`find_tokenizer_file`.

    Yields:
        The file, or a temporary one that is made of tokenizer.json.

    Raises:
        UserError: if tokenizer.json is damaged or is not Llama 3's.
    """
    file = find_tokenizer_file(path)
    if file.suffix != ".json":
        yield file
        return
    text = tokenizer_model(file)
    if text is None:
        raise UserError(
            f"tokenizer.path={file} is not the tokenizer.json of a Llama 3: name the tokenizer of another model in"
            " tokenizer._component_"
        )
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "tokenizer.model"
        made.write_text(text, encoding="ascii")
        yield made


def tokenizer_model(file: Path) -> str | None:
    """Return the lines of base64 and rank that torchtune reads.

    Both formats hold the same byte pairs: tiktoken merges to the token of the lowest rank, Hugging Face by the order of
    the merges, so the two agree where that order is the tokens' own, and both split words by the same rule.

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
        raise UserError(f"{file} is a tokenizer that tokenizer.model cannot hold: give the original tokenizer.model")
    if content.get("normalizer") is not None or set(_patterns(content.get("pre_tokenizer"))) - {CL100K_PATTERN}:
        raise UserError(f"{file} splits words by another rule than Llama 3's: give the original tokenizer.model")
    letters = _letter_bytes()
    lines = []
    for token, _ in sorted(ranks.items(), key=lambda item: item[1]):
        spelled = base64.b64encode(bytes(letters[letter] for letter in token)).decode()
        lines.append(f"{spelled} {ranks[token]}\n")
    return "".join(lines)


def is_tiktoken(file: Path) -> bool:
    """Return whether a file has lines of base64 and rank, as Llama 3's; SentencePiece's files are binary."""
    with file.open("rb") as opened:
        first = opened.readline(200).split()
    return len(first) == 2 and first[1].isdigit()


def _patterns(node: Any) -> Generator[str]:
    """Yield the expressions by which a pre-tokenizer splits text."""
    if isinstance(node, dict):
        if isinstance(node.get("Regex"), str):
            yield node["Regex"]
        for value in node.values():
            yield from _patterns(value)
    elif isinstance(node, list):
        for value in node:
            yield from _patterns(value)


def _in_order(ranks: dict[str, int], merges: list[str | list[str]]) -> bool:
    """Return whether the merges produce the tokens in the order of their ranks."""
    made = ["".join(merge.split(" ") if isinstance(merge, str) else merge) for merge in merges]
    locations = [ranks.get(token, -1) for token in made]
    return bool(locations) and locations == sorted(locations) and locations[0] >= 0


def _letter_bytes() -> dict[str, int]:
    """Return the byte that each printable letter of byte-level BPE stands for."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return {letter: byte for byte, letter in bytes_to_unicode().items()}
