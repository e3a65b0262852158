"""Replies that were given before, read from a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from medcap.data.json_text import JsonError, parse_json
from medcap.errors import UserError
from medcap.generation.progress import Progress
from medcap.language_models.base import NOT_SENT, Admit, LanguageModel, OnReply, Prompt, Reply
from medcap.plurals import counted

ID_KEYS = ("id", "pair_id")
_NO_REPLY = ("line holds no reply and is left out", "lines hold no reply and are left out")
REPLY_KEYS = ("reply", "result", "text")


class RecordedReplies(LanguageModel):
    """Replies by the ids of their prompts; nothing is computed and nothing is sent.

    Args:
        path: JSONL: a line a reply, with its id under ``id`` or ``pair_id`` and its words under ``reply``, ``result``
            or ``text``. The ``replies.jsonl`` of an earlier run is such a file, and so are the files of LLaVA-Med's
            generator (microsoft/LLaVA-Med v1.0.0, llava/instruct/instruct_generate.py). Of two lines with one id the
            last counts. A damaged line is left out and counted.
        progress: show the progress on stderr.

    Raises:
        UserError: if the file cannot be read or holds no reply.
    """

    kind: ClassVar[str] = "recorded"

    def __init__(self, path: str | Path, progress: bool = True) -> None:
        self.path = Path(path)
        self.progress = progress
        self._replies: dict[str, Reply] = {}
        self._damaged = 0
        self._read()

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def settings(self) -> dict[str, Any]:
        # Not a hash of the file: it may grow while it is recorded.
        return {"recorded": self.path.name}

    @property
    def notices(self) -> list[str]:
        """See :attr:`LanguageModel.notices`."""
        return [f"{self.path}: {counted(self._damaged, *_NO_REPLY)}"] if self._damaged else []

    def ask(self, prompts: Sequence[str | Prompt], on_reply: OnReply, admit: Admit | None = None) -> None:
        with Progress(len(prompts), self.progress and len(prompts) > 1) as progress:
            for position, prompt in enumerate(prompts):
                why = "" if admit is None else admit(position)
                if why:
                    on_reply(position, Reply("", NOT_SENT, error=why))
                    continue
                id = prompt.id if isinstance(prompt, Prompt) else prompt
                reply = self._replies.get(id)
                on_reply(position, reply or Reply("", "error", error=f"no recorded reply: {self.path} has none for it"))
                progress.add(reply.num_tokens if reply else 0)

    def _read(self) -> None:
        try:
            with self.path.open("rb") as file:
                for line in file:
                    if line.strip():
                        self._add(line)
        except OSError as error:
            raise UserError(f"the recorded replies {self.path} cannot be read: {error.strerror}") from error
        if not self._replies:
            raise UserError(
                f"{self.path} holds no recorded replies: each line must be an object with {' or '.join(ID_KEYS)} and"
                f" {', '.join(REPLY_KEYS[:-1])} or {REPLY_KEYS[-1]}"
            )

    def _add(self, line: bytes) -> None:
        try:
            row = parse_json(line)
        except JsonError:
            row = None
        if not isinstance(row, dict):
            self._damaged += 1
            return
        id = next((row[key] for key in ID_KEYS if isinstance(row.get(key), (str, int))), None)
        words = next((row[key] for key in REPLY_KEYS if isinstance(row.get(key), str)), None)
        if id is None or words is None:
            # A run records the failures of its model as well.
            self._damaged += not row.get("error")
            return
        finish = row.get("finish")
        tokens, prompt_tokens = (
            value if isinstance(value := row.get(key), int) else 0 for key in ("num_tokens", "num_prompt_tokens")
        )
        finish = finish if isinstance(finish, str) else "stop"
        self._replies[str(id)] = Reply(words, finish, tokens, num_prompt_tokens=prompt_tokens)
