"""Which runs a checkpoint descends from: each trained some components on some data, for some steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """What the checkpoints of a run say of where their weights come from.

    Attributes:
        earlier: an entry for each run before this one, the oldest first: ``run``, ``step``, ``trained``, ``data``.
        trained: names of the components that this run trains.
        data: the data files that this run trains on.
    """

    earlier: list[dict[str, Any]] = field(default_factory=list)
    trained: list[str] = field(default_factory=list)
    data: list[str] = field(default_factory=list)

    def entries(self, step: int) -> list[dict[str, Any]]:
        """Return the entries as ``vision.json`` holds them.

        The last one is of the checkpoint's own run and names no folder, so that a run may be moved.

        Args:
            step: optimizer steps that this run has made.
        """
        return [*self.earlier, {"step": step, "trained": self.trained, "data": self.data}]


def entries_of_descendant(entries: Sequence[Mapping[str, Any]], run: str) -> list[dict[str, Any]]:
    """Return what a new run that starts from a checkpoint says of the runs before it.

    Args:
        entries: entries of the checkpoint; empty for one that was imported, or written before entries were kept.
        run: folder of the checkpoint's run.
    """
    named = [dict(entry) for entry in entries]
    return [*named[:-1], {"run": run, **(named[-1] if named else {})}]


def describe_history(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each run, for people: what it trained, on what, for how long."""
    lines = []
    for entry in entries:
        trained = ", ".join(entry.get("trained", [])) or "no trained parts known"
        data = f" on {', '.join(entry['data'])}" if entry.get("data") else ""
        steps = f", {entry['step']} steps" if "step" in entry else ""
        lines.append(f"{trained}{data}{steps}")
    return lines
