"""Record which runs a checkpoint descends from: what each one trained, on which data and for how many steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class History:
    """The history that the checkpoints of a run record.

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

        The last entry is the checkpoint's own run. It names no folder, so that the run may be moved.

        Args:
            step: optimizer steps that this run has made.

        Returns:
            The entries, the oldest run first.
        """
        return [*self.earlier, {"step": step, "trained": self.trained, "data": self.data}]


def entries_of_descendant(entries: Sequence[Mapping[str, Any]], run: str) -> list[dict[str, Any]]:
    """Return the entries of the runs before a new run that starts from a checkpoint.

    Args:
        entries: entries of the checkpoint; empty if it was imported, or written by a medcap without histories.
        run: folder of the checkpoint's run.

    Returns:
        The same entries; the last one names the folder.
    """
    named = [dict(entry) for entry in entries]
    return [*named[:-1], {"run": run, **(named[-1] if named else {})}]


def describe_history(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a readable line for each run: what it trained, on which data, for how many steps."""
    lines = []
    for entry in entries:
        trained = ", ".join(entry.get("trained", [])) or "no trained parts known"
        data = f" on {', '.join(entry['data'])}" if entry.get("data") else ""
        steps = f", {entry['step']} steps" if "step" in entry else ""
        lines.append(f"{trained}{data}{steps}")
    return lines
