"""``results.csv``: a row a trial."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from medcap.files import write_text
from medcap.sweep.definition import Definition
from medcap.sweep.study import WORKER_GONE, Study

FIRST_COLUMNS = ("trial", "state", "value")
LAST_COLUMNS = ("step", "attempts", "seconds", "worker", "reason", "folder")
STATES = {
    TrialState.WAITING: "waiting",
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
}


def columns(definition: Definition) -> list[str]:
    """Return the names: trial, state, value, a column for each key that is tried, then what is known of the run."""
    return [*FIRST_COLUMNS, *definition.keys, *LAST_COLUMNS]


def results(study: Study) -> list[dict[str, Any]]:
    """Return a row for each trial of the sweep, in its order: column -> value, None if it has none."""
    return [_row(study, slot, attempts) for slot, attempts in study.attempts().items()]


def _row(study: Study, slot: int, attempts: Sequence[FrozenTrial]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(columns(study.definition))
    row |= {"trial": slot, "state": "waiting", "attempts": len(attempts), "folder": f"trials/{slot:04d}"}
    if not attempts:
        return row
    last = attempts[-1]
    row["state"] = STATES[last.state]
    row |= {key: value for key, value in last.system_attrs.get("fixed_params", {}).items() if key in row}
    row |= {key: value for key, value in last.params.items() if key in row}
    row["worker"] = last.user_attrs.get("worker")
    row["step"] = max(last.intermediate_values, default=None)
    if last.state == TrialState.COMPLETE:
        row["value"] = last.value
    if last.state == TrialState.FAIL:
        row["reason"] = last.user_attrs.get("reason", WORKER_GONE)
    elif last.state == TrialState.PRUNED:
        row["reason"] = last.user_attrs.get("reason")
    ended = [trial.duration.total_seconds() for trial in attempts if trial.duration is not None]
    row["seconds"] = round(sum(ended), 1) if ended else None
    return row


def best(definition: Definition, rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the row with the best value, None if no trial has one."""
    complete = [row for row in rows if row["value"] is not None]
    choose = min if definition.objective.direction == "minimize" else max
    return choose(complete, key=lambda row: row["value"], default=None)


def write_table(path: Path, definition: Definition, rows: Sequence[dict[str, Any]]) -> None:
    """Write the CSV file, complete or not at all."""
    table = io.StringIO()
    writer = csv.DictWriter(table, columns(definition), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, table.getvalue())
