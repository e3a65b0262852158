"""Name and copy the tokenizer files of a language model's folder."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

LLAMA3_TOKENIZER = "original/tokenizer.model"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    LLAMA3_TOKENIZER,
)
# How its chats are written and where its answers end.
TEMPLATE_FILES = ("generation_config.json", "chat_template.jinja", "chat_template.json", "added_tokens.json")


def copy_tokenizer_files(source: Path, target: Path, further: Sequence[str] = ()) -> list[str]:
    """Copy those of the tokenizer's files that exist.

    Args:
        source: folder of a language model.
        target: folder to copy to; it must exist.
        further: names of other files to copy.

    Returns:
        Names of the tokenizer's files that were copied, without the further ones.
    """
    found = [name for name in (*TOKENIZER_FILES, *further) if (source / name).is_file()]
    for name in found:
        (target / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, target / name)
    return [name for name in found if name not in further]
