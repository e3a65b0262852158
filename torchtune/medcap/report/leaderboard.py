"""A list of runs in the order of their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medcap.report.sections import Section


@dataclass(frozen=True)
class Place:
    """A run in a list.

    Attributes:
        place: its place, from 1; runs of equal scores share one.
        name: of the run.
        detail: a short line below the name.
        cells: text of each score.
        share: the first score as a share of 1, drawn as a strip; None for no strip.
    """

    place: int
    name: str
    detail: str
    cells: Sequence[str]
    share: float | None = None


@dataclass(frozen=True)
class Leaderboard(Section):
    """Runs with comparable scores, the best first.

    Attributes:
        title: above the list.
        task: what the runs were asked.
        columns: names of the scores, that of the order first.
        lines: the runs.
        note: a sentence below the title.
    """

    template = "leaderboard.html.j2"
    style = "panels"

    title: str
    task: str
    columns: Sequence[str]
    lines: Sequence[Place]
    note: str = ""
