"""Replies of a judge that were recorded before: by another run, a batch service, or the authors of a paper."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError
from medcap.evaluation.judges.base import Judge, OnReply, Reply
from medcap.evaluation.judges.rating_prompt import PUBLISHED, prompt_name
from medcap.evaluation.predictions import dataset_fingerprint

_REPLY_KEYS = ("reply", "gpt_eval", "result", "content")


class RecordedJudge(Judge):
    """Takes replies from a file by ``question_id``, or by the prompt itself.

    A row has ``question_id`` or ``prompt``, and the words under ``reply`` (our own files), ``gpt_eval`` or ``result``
    (LLaVA-Med's score files) or ``content``. A row with ``order`` is of that order
    of the two answers. A row with an ``error`` or without
    words is none; of several rows the last one counts.

    Args:
        replies: JSON or JSONL.

    Raises:
        UserError: if the file cannot be read, or not one row has a reply.

    Example:
        >>> RecordedJudge("gpt4_scores.jsonl").ask_about(["q7"], [""], lambda index, reply: print(reply.text))
    """

    kind: ClassVar[str] = "recorded"

    def __init__(self, replies: str | Path) -> None:
        self.path = Path(replies)
        if not self.path.is_file():
            raise UserError(f"replies={self.path}: no such file; give JSON or JSONL with question_id and reply")
        self._replies: dict[str, str] = {}
        for _, row in read_rows(self.path):
            if isinstance(row, Mapping) and (text := _text(row)):
                self._replies[_key(row)] = text
        if not self._replies:
            raise UserError(
                f"replies={self.path}: no row has a reply (under {', '.join(_REPLY_KEYS)}); is this a file of replies?"
            )
        self._sha256 = dataset_fingerprint(self.path)

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.path.stem}"

    @property
    def settings(self) -> dict[str, Any]:
        return {"replies": self.path.name, "replies_sha256": self._sha256}

    def ask(self, prompts: Sequence[str], on_reply: OnReply) -> None:
        self.ask_about(prompts, prompts, on_reply)

    def ask_about(self, names: Sequence[str], prompts: Sequence[str], on_reply: OnReply) -> None:
        for index, (name, prompt) in enumerate(zip(names, prompts, strict=True)):
            text = self._replies.get(prompt) or self._replies.get(name)
            missing = Reply("", "error", error=f"{self.path.name} has no reply to {name[:80]!r}")
            on_reply(index, missing if text is None else Reply(text))


def _text(row: Mapping[str, Any]) -> str:
    words = next((row[key] for key in _REPLY_KEYS if isinstance(row.get(key), str)), "")
    return "" if row.get("error") else words.strip()


def _key(row: Mapping[str, Any]) -> str:
    if isinstance(row.get("prompt"), str) and "question_id" not in row:
        return row["prompt"]
    return prompt_name(str(row.get("question_id")), str(row.get("order") or PUBLISHED))
