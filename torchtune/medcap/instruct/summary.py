"""The counts of a run, for people and for programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medcap.datasets.published.reading import Tally
from medcap.instruct.asking import Asked
from medcap.plurals import counted

QUESTIONS = ("question with an answer", "questions with answers")
TURNS = ("turn left out: without a partner or words", "turns left out: without a partner or words")
_SINGULAR = {plural: one for one, plural in (QUESTIONS, TURNS)}


@dataclass
class Summary:
    """What came of a source.

    Attributes:
        what: what was asked about, in the plural.
        source: where these come from.
        left_out: what of the source could not be used.
        wanted: how many a reply was wanted for.
        asked: what came of the prompts.
        failed: prompts without a usable reply, by reason.
        rows: rows that were written.
        counts: further counts by name.
    """

    what: str
    source: str
    left_out: Tally
    wanted: int
    asked: Asked
    failed: Tally
    rows: int
    counts: Counter[str] = field(default_factory=Counter)

    def text(self) -> str:
        """Return the counts for a terminal."""
        asked, budget = self.asked, self.asked.budget
        lines = [f"{self.source}: {counted(self.left_out.read, 'row')} read, {self._of(self.wanted)}"]
        lines += reason_lines("left out", self.left_out)
        earlier = f" ({asked.earlier:,} of an earlier run)" if asked.earlier else ""
        lines.append(f"{counted(len(asked.replies), 'reply', 'replies')}{earlier}, {counted(self.rows, 'row')} written")
        lines += [f"  {counted(count, _SINGULAR.get(name, name), name)}" for name, count in self.counts.items()]
        lines += reason_lines("failed", self.failed)
        if asked.not_sent:
            lines.append(f"{self._of(asked.not_sent)} not asked about: {asked.why_not}")
        cost = "" if budget.cost is None else f", cost {budget.cost:.4g}"
        lines.append(f"tokens: {budget.prompt_tokens:,} of prompts, {budget.tokens:,} of replies{cost}")
        return "\n".join([*lines, *(f"note: {notice}" for notice in asked.notices)])

    def _of(self, number: int) -> str:
        return counted(number, self.what.removesuffix("s"), self.what)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts for a JSON file."""
        asked, budget = self.asked, self.asked.budget
        return {
            "source": self.source,
            "rows_read": self.left_out.read,
            "left_out": reasons(self.left_out),
            "wanted": self.wanted,
            "replies": len(asked.replies),
            "of_an_earlier_run": asked.earlier,
            "rows_written": self.rows,
            **self.counts,
            "failed": reasons(self.failed),
            "not_asked": asked.not_sent,
            "why_not_asked": asked.why_not or None,
            "prompt_tokens": budget.prompt_tokens,
            "reply_tokens": budget.tokens,
            "cost": budget.cost,
            "notices": asked.notices,
        }


def reasons(tally: Tally) -> Mapping[str, Any]:
    """Return counts and first cases by reason, the most frequent first."""
    return {reason: {"count": count, "first": tally.first[reason]} for reason, count in tally.skipped.most_common()}


def reason_lines(what: str, tally: Tally) -> list[str]:
    """Return a line for a terminal for each reason, the most frequent first."""
    return [
        f"  {count:,} {what}: {reason} (first: {tally.first[reason]})" for reason, count in tally.skipped.most_common()
    ]
