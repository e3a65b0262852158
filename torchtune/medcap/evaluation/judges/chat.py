"""Talking to a judge's model on a terminal."""

from __future__ import annotations

import contextlib
import sys

from medcap.errors import UserError
from medcap.evaluation.judges.base import Judge, Reply

PROMPT = "Inst: "


def chat(judge: Judge) -> None:
    """Read instructions until ``q``, the end of the input, or Ctrl-C; each starts a new conversation.

    Args:
        judge: judge whose model replies.
    """
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - the line can then be edited
    while True:
        try:
            instruction = input(PROMPT).strip()
            if instruction == "q":
                return
            if instruction:
                _reply(judge, instruction)
        except (EOFError, KeyboardInterrupt):
            print()
            return


def _reply(judge: Judge, instruction: str) -> None:
    replies: list[Reply] = []
    try:
        judge.ask([instruction], lambda _, reply: replies.append(reply))
    except UserError as error:
        replies = [Reply("", "error", error=str(error))]
    for reply in replies[:1]:
        error = reply.error or ("" if reply.text.strip() else f"the reply has no words (finish {reply.finish})")
        if error:
            print(f"error: {error}", file=sys.stderr)
        else:
            print(reply.text)
