"""Ask a model about many things: every reply is kept, and nothing that was answered is asked twice."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcap.datasets.published.reading import Tally
from medcap.errors import UserError
from medcap.evaluation.predictions import FileKeys, PredictionFile, settings_fingerprint
from medcap.instruct.budget import Budget, Limits
from medcap.instruct.prompts import EXAMPLES, Style
from medcap.instruct.replies import Unusable
from medcap.language_models.base import NOT_SENT, LanguageModel, Prompt, Reply
from medcap.plurals import counted, none_of

REPLIES = "replies.jsonl"
_KEYS = FileKeys("--out", "--overwrite", "--keep-old")
# The run stops where so many prompts failed, or have a reply that cannot be used, and not one has a good one.
_HOPELESS = 16
_TRIES = re.compile(r" \(\d+ tries\)")


@dataclass(frozen=True)
class Asking:
    """How a model is asked.

    Attributes:
        limits: what the replies may use.
        max_new_tokens: most tokens of a reply.
        most: ask about so many things only, the first ones; None for all.
        examples: file of the worked examples.
        overwrite: ask everything again.
        keep_old: keep replies that were made under other settings.
        again: ask again where a reply does not hold what was asked for.
    """

    limits: Limits = field(default_factory=Limits)
    max_new_tokens: int = 1024
    most: int | None = None
    examples: Path = EXAMPLES
    overwrite: bool = False
    keep_old: bool = False
    again: bool = False


@dataclass
class Asked:
    """What came of the prompts.

    Attributes:
        replies: the replies by the prompts' ids.
        failures: the errors by the prompts' ids, of those that have no reply.
        earlier: how many of the replies an earlier run has brought.
        not_sent: how many prompts were not sent.
        why_not: why not, in words; "" where all were sent.
        budget: what was used, in all runs together.
        notices: lines that the user should see.
    """

    replies: dict[str, Reply]
    failures: dict[str, str]
    earlier: int
    not_sent: int
    why_not: str
    budget: Budget
    notices: list[str] = field(default_factory=list)


def ask_all(
    model: LanguageModel,
    style: Style,
    words: Mapping[str, str],
    folder: Path,
    asking: Asking,
    read: Callable[[str, str], Any],
) -> Asked:
    """Ask about everything that has no reply yet.

    Each reply is appended to ``<folder>/replies.jsonl`` as soon as it is there: ``id``, ``reply``, ``finish``,
    ``num_prompt_tokens``, ``num_tokens``, ``spent_before`` (tokens of replies that it replaces) and ``error``. A run
    that was killed at any moment goes on; failures are asked again.

    Args:
        model: who is asked.
        style: what stands before each of the words.
        words: id -> the user's last turn, in the order in which they are asked.
        folder: where to; made if it is not there.
        asking: limits and other choices.
        read: reads a reply and its finish; raises ``Unusable`` where it does not hold what was asked for.

    Returns:
        The replies, of this run and of earlier ones, to what is asked now.

    Raises:
        UserError: if the folder holds replies that were made under other settings, another run writes into it, or the
            model replies to nothing.
    """
    budget = Budget(asking.limits, asking.max_new_tokens)
    settings = {"model": model.kind, **model.settings, "prompt_sha256": style.sha256}
    with PredictionFile(folder / REPLIES, settings, asking.overwrite, asking.keep_old, _KEYS) as file:
        for row in file.rows.values():
            budget.count(*_spent(row), "", "")
        fingerprints = {id: settings_fingerprint({"id": id, "words": text}) for id, text in words.items()}
        pending = [
            id
            for id, fingerprint in fingerprints.items()
            if not file.has_answer(fingerprint) or (asking.again and not _is_usable(file.rows[fingerprint], read))
        ]
        run = _Run([style.prompt(id, words[id]) for id in pending], fingerprints, file, budget, read)
        if pending:
            model.ask(run.prompts, run.keep, run.admit)
        run.finish()
        rows = {id: file.rows[fingerprint] for id, fingerprint in fingerprints.items() if fingerprint in file.rows}
        notices = [*model.notices]
        if file.num_old:
            notices.append(f"{counted(file.num_old, 'reply was', 'replies were')} made under other settings than these")
    if budget.estimated:
        notices.append(
            f"the tokens of {counted(budget.estimated, 'reply', 'replies')} were not counted: they are estimated by the"
            " number of letters"
        )
    return Asked(
        replies={id: _reply(row) for id, row in rows.items() if row["error"] is None},
        failures={id: row["error"] for id, row in rows.items() if row["error"] is not None},
        earlier=len(words) - len(pending),
        not_sent=run.not_sent,
        why_not=run.why_not,
        budget=budget,
        notices=notices,
    )


def failure_kind(error: str) -> str:
    """Return the part of an error that all errors of its kind share."""
    return _TRIES.sub("", error).partition(":")[0]


def tally_failures(asked: Asked, tally: Tally) -> None:
    """Count the prompts without a reply by the kind of their failure."""
    for id, error in asked.failures.items():
        tally.skip(failure_kind(error), id)


class _Run:
    """Writes replies as they come."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        fingerprints: Mapping[str, str],
        file: PredictionFile,
        budget: Budget,
        read: Callable[[str, str], Any],
    ) -> None:
        self.prompts = prompts
        self.not_sent = 0
        self.why_not = ""
        self._fingerprints = fingerprints
        self._file = file
        self._budget = budget
        self._read = read
        self._some_replied = any(row.get("error") is None for row in file.rows.values())
        self._some_usable = any(row.get("error") is None and _is_usable(row, read) for row in file.rows.values())
        self._unusable = 0
        # Failures are written only when the model has replied to something: a file of failures of a model that was
        # set up wrongly would else refuse the model that is set up correctly.
        self._held: list[dict[str, Any]] = []

    def admit(self, position: int) -> str:
        """See :data:`Admit`."""
        return self._budget.admit(self.prompts[position])

    def keep(self, position: int, reply: Reply) -> None:
        """Write a reply; see :data:`OnReply`."""
        if reply.finish == NOT_SENT:
            self.not_sent += 1
            self.why_not = self.why_not or reply.error
            return
        prompt = self.prompts[position]
        fingerprint = self._fingerprints[prompt.id]
        before = (self._budget.prompt_tokens, self._budget.tokens)
        self._budget.spend(prompt, reply)
        self._some_replied |= not reply.error
        self._held.append(
            {
                "id": prompt.id,
                "reply": None if reply.error else reply.text,
                "finish": reply.finish,
                "num_prompt_tokens": self._budget.prompt_tokens - before[0],
                "num_tokens": self._budget.tokens - before[1],
                "error": reply.error or None,
                "spent_before": _spent(self._file.rows.get(fingerprint, {})),
                "fingerprint": fingerprint,
            }
        )
        if self._some_replied:
            self._release()
        elif len(self._held) >= _HOPELESS:
            raise self._hopeless()
        if not reply.error and not self._some_usable:
            self._look_at(reply)

    def _look_at(self, reply: Reply) -> None:
        """Count replies that cannot be used, until one can.

        Raises:
            UserError: where there are many: a model that does not do what it is asked for must not use up the budget.
        """
        try:
            self._read(reply.text, reply.finish)
            self._some_usable = True
        except Unusable as reason:
            self._unusable += 1
            if self._unusable == _HOPELESS:
                raise UserError(
                    f"not one of the first {_HOPELESS} replies can be used; the last one: {reason}"
                    f" ({reply.text[:80]!r}): take another model or other --examples; the replies are in"
                    f" {REPLIES}, --overwrite replaces them"
                ) from None

    def finish(self) -> None:
        """Write what was held back.

        Raises:
            UserError: if the model has replied to nothing.
        """
        if self._held and not self._some_replied:
            raise self._hopeless()
        self._release()

    def _release(self) -> None:
        for row in self._held:
            self._file.append(row)
        self._held.clear()

    def _hopeless(self) -> UserError:
        return UserError(
            f"the model replied to {none_of(len(self._held), 'prompt')}; the last one ({self._held[-1]['id']}):"
            f" {self._held[-1]['error']}"
        )


def _spent(row: Mapping[str, Any]) -> tuple[int, int]:
    """Return the tokens of a row's prompt and reply, and of the rows that it has replaced."""
    prompt_tokens, tokens = row.get("spent_before", (0, 0))
    return prompt_tokens + row.get("num_prompt_tokens", 0), tokens + row.get("num_tokens", 0)


def _is_usable(row: Mapping[str, Any], read: Callable[[str, str], Any]) -> bool:
    try:
        read(row["reply"], row["finish"])
    except Unusable:
        return False
    return True


def _reply(row: Mapping[str, Any]) -> Reply:
    return Reply(row["reply"], row["finish"], row["num_tokens"], num_prompt_tokens=row["num_prompt_tokens"])
