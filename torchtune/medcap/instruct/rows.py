"""Rows of conversations in LLaVA's layout."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.files import atomic_file, plain

IMAGE = "<image>"
CONVERSATIONS = "conversations.jsonl"


def conversation_row(
    pairs: Sequence[tuple[str, str]], image: str | None, image_last: bool, fields: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a row.

    Args:
        pairs: questions and answers, without a placeholder; a question may be empty.
        image: name of the image file; None for a conversation in words.
        image_last: put ``<image>`` after the first question instead of before it.
        fields: the row's other fields, such as ``id``.
    """
    turns: list[dict[str, str]] = []
    for number, (question, answer) in enumerate(pairs):
        if number == 0 and image is not None:
            question = "\n".join(filter(None, (question, IMAGE) if image_last else (IMAGE, question)))
        turns += [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    named = {} if image is None else {"image": image}
    return {**fields, **named, "conversations": turns}


def toss(id: str, seed: int) -> bool:
    """Toss a fair coin for a row; the same id and seed always give the same side."""
    return bool(hashlib.sha256(f"{seed}\0{id}".encode("utf-8", "replace")).digest()[0] & 1)


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write JSONL, complete or not at all.

    Args:
        path: the file; an old one is replaced.
        rows: values of JSON types.

    Returns:
        The number of rows.
    """
    count = 0
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8", errors="replace") as file:
        for row in rows:
            file.write(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count
