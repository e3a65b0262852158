"""Llama 3's tokenizer for a vocabulary of any size, and the check that a tokenizer belongs to an LLM."""

from __future__ import annotations

import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torchtune.models.llama3 import Llama3Tokenizer
from torchtune.models.llama3._tokenizer import LLAMA3_SPECIAL_TOKENS

from medcap.errors import UserError
from medcap.models.foreign_files import check_file
from medcap.models.llama3_tokenizer_file import tiktoken_file

NUM_SPECIAL_TOKENS = 256
# A chat template may begin as a web page or JSON does.
_NO_FILES = ("_component_", "chat_template")
IMAGE_TOKEN = "<|image|>"
_LLAMA3_RANKS = 128_000
# torchtune's table uses 255 of Llama 3's 256 slots; this one is free. Its <|image|> lies after the embedding rows.
_FREE_SLOT = 11
# Embedding tables are padded, and a few tokens added, but not by more than this.
_MOST_SPARE_ROWS = 1536  # gpt-oss has 1069


def llama3_special_tokens(num_ranks: int) -> dict[str, int]:
    """Llama 3's special tokens after a vocabulary of any size.

    Args:
        num_ranks: ordinary tokens n; Llama 3 has 128,000.

    Returns:
        Name -> id, the ids being n to n + 255. For 128,000 it is torchtune's table, which has ``<|image|>`` at
        128256, one after the embedding rows, and 128011 free.
    """
    moved = {name: token - _LLAMA3_RANKS + num_ranks for name, token in LLAMA3_SPECIAL_TOKENS.items()}
    if num_ranks != _LLAMA3_RANKS:
        moved[IMAGE_TOKEN] = num_ranks + _FREE_SLOT
    return moved


def free_special_token(num_ranks: int) -> int:
    """Return the id among Llama 3's 256 special ones that has an embedding row, and no meaning in any text or template.

    Args:
        num_ranks: ordinary tokens; Llama 3 has 128,000.
    """
    return num_ranks + _FREE_SLOT


def llama3_tokenizer(path: str, max_seq_len: int | None = None) -> Llama3Tokenizer:
    """torchtune's Llama 3 tokenizer, with special tokens that follow the file's size.

    Args:
        path: Meta's ``original/tokenizer.model``, any file of that (tiktoken's) format, or Hugging Face's
            tokenizer.json of it, which is also taken where the path is of a tokenizer.model that is not there.
        max_seq_len: tokens after which a conversation is cut.

    Returns:
        The tokenizer.

    Raises:
        UserError: if the file is missing or of another format.
    """
    with tiktoken_file(path) as file:
        ranks = read_tiktoken_ranks(file)
        with uncached_tiktoken():
            return Llama3Tokenizer(str(file), llama3_special_tokens(len(ranks)), max_seq_len)


def read_tiktoken_ranks(path: str | Path) -> dict[bytes, int]:
    """Read a tiktoken file: lines of ``<base64 of the token's bytes> <rank>``.

    Raises:
        UserError: if the file is missing or of another format.
    """
    from tiktoken.load import load_tiktoken_bpe

    file = Path(path)
    wanted = "give the tokenizer.model in the folder original/ of the Llama 3 download, or its tokenizer.json"
    if not file.is_file():
        raise UserError(f"tokenizer.path={path}: no such file; {wanted}")
    check_tokenizer_files({"path": str(path)})
    try:
        with uncached_tiktoken():
            ranks = load_tiktoken_bpe(str(file))
    except ValueError as error:
        raise UserError(
            f"tokenizer.path={path} is not a Llama 3 tokenizer (lines of base64 and rank); {wanted}, or name the"
            " tokenizer of another model in tokenizer._component_"
        ) from error
    if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([byte]) not in ranks for byte in range(256)):
        raise UserError(f"tokenizer.path={path} is cut short: ranks or single bytes are missing; {wanted}")
    return ranks


def check_tokenizer_files(node: Mapping[str, Any]) -> None:
    """See that the files that a tokenizer names are not something else, such as a git-lfs pointer or a web page.

    Args:
        node: ``_component_`` and arguments.

    Raises:
        UserError: naming the key and the file.
    """
    for key, value in node.items():
        if isinstance(value, str) and key not in _NO_FILES and Path(value).is_file():
            try:
                check_file(Path(value), text=True)
            except UserError as error:
                raise UserError(f"tokenizer.{key}={error}") from None


def check_tokenizer_fits(tokenizer: Any, vocab_size: int) -> None:
    """Check that a tokenizer belongs to an LLM, as far as their sizes show.

    Args:
        tokenizer: any torchtune model tokenizer.
        vocab_size: rows of the LLM's embedding table.

    Raises:
        UserError: if it has ids without an embedding row, or if many more rows have no id than padding explains.
    """
    needed = _num_used_ids(tokenizer)
    if needed > vocab_size:
        raise UserError(
            f"tokenizer: it makes ids up to {needed - 1}, but the LLM has {vocab_size} embedding rows; give the"
            " tokenizer that came with the LLM"
        )
    if vocab_size - needed > min(_MOST_SPARE_ROWS, needed // 16):
        raise UserError(
            f"tokenizer: it knows {needed} tokens, but the LLM has {vocab_size} embedding rows, so it is another"
            " model's; give the tokenizer that came with the LLM"
        )


def _num_used_ids(tokenizer: Any) -> int:
    # Llama 3's vocab_size counts <|image|>, which torchtune puts after the embedding rows and medcap never uses.
    sizes = [getattr(tokenizer, name, None) for name in ("base_vocab_size", "vocab_size")]
    sizes.append(len(getattr(tokenizer, "encoder", ())))
    text = next(size for size in sizes if size is not None)
    special = getattr(tokenizer, "special_tokens", None) or {}
    ids = [token for name, token in special.items() if name != IMAGE_TOKEN]
    ids += getattr(tokenizer, "stop_tokens", None) or []
    ids += [getattr(tokenizer, name, None) for name in ("bos_id", "eos_id", "pad_id")]
    return max(text, *(token + 1 for token in ids if token is not None))


@contextmanager
def uncached_tiktoken() -> Generator[None]:
    """Have tiktoken read the file that is named.

    It keeps a copy of every file, local ones too, under a name made of the path alone, in a temporary folder that any
    user of the machine can write to: another file under the same path would never be read.
    """
    name = "TIKTOKEN_CACHE_DIR"
    before = os.environ.get(name)
    os.environ[name] = ""
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
