"""A sweep's page: the best trial, parallel coordinates, learning curves and the table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from medcap.report.charts import LineChart
from medcap.report.page_frame import Page
from medcap.report.parallel import Axis, ParallelCoordinates
from medcap.report.sections import Card, Cards, Table
from medcap.sweep.definition import Definition
from medcap.sweep.objective import watched
from medcap.sweep.table import best

MOST_CURVES = 6
_Row = dict[str, Any]


def write_page(
    path: Path, definition: Definition, rows: Sequence[_Row], attempts: dict[int, list[FrozenTrial]]
) -> None:
    """Write the page, complete or not at all.

    Args:
        path: the HTML file.
        definition: definition of the sweep.
        rows: rows of the table.
        attempts: slot -> its trials; the last one's intermediate values are its curve.
    """
    objective, winner = definition.objective, best(definition, rows)
    shown = ["trial", "state", "value", *definition.keys, "step", "attempts", "seconds", "reason"]
    page = Page(
        f"Sweep {definition.name}",
        f"{definition.train.recipe} with {definition.train.config}; {objective.direction} {objective.metric}.",
        [
            Cards(_cards(definition, rows, winner)),
            _tried(definition, rows, winner) if winner else None,
            _learnt(definition, rows, attempts),
            Table("Trials", shown, [[row[name] for name in shown] for row in rows], wide=True),
        ],
    )
    page.write(path)


def _cards(definition: Definition, rows: Sequence[_Row], winner: _Row | None) -> list[Card]:
    counts = Counter(row["state"] for row in rows)
    trials = Card("trials", f"{len(rows):,}", ", ".join(f"{count} {state}" for state, count in counts.items()))
    if winner is None:
        return [trials]
    tried = ", ".join(f"{key}={winner[key]}" for key in definition.keys)
    label, detail = f"best {definition.objective.metric}", f"trial {winner['trial']}: {tried}"
    return [Card(label, f"{winner['value']:.5g}", detail, main=True), trials]


def _tried(definition: Definition, rows: Sequence[_Row], winner: _Row) -> ParallelCoordinates:
    finished = [row for row in rows if row["value"] is not None]
    return ParallelCoordinates(
        "What was tried and what came of it",
        [*(_axis(definition, key) for key in definition.keys), Axis(definition.objective.metric)],
        {
            f"trial {row['trial']}": [*(_value(definition, key, row[key]) for key in definition.keys), row["value"]]
            for row in finished
        },
        f"trial {winner['trial']}",
        "A line a finished trial; the thick one is the best.",
    )


def _axis(definition: Definition, key: str) -> Axis:
    if key in definition.ranges:
        return Axis(key, log=definition.ranges[key]["log"])
    return Axis(key, tuple(definition.choices[key]))


def _value(definition: Definition, key: str, value: Any) -> Any:
    return value if key in definition.ranges else str(value)


def _learnt(definition: Definition, rows: Sequence[_Row], attempts: dict[int, list[FrozenTrial]]) -> LineChart | None:
    metric, sign = watched(definition.objective)
    order = 1 if definition.objective.direction == "minimize" else -1
    ranked = sorted(rows, key=lambda row: math.inf if row["value"] is None else order * row["value"])
    curves: dict[str, list[tuple[float, float]]] = {}
    for row in ranked:
        trials = attempts[row["trial"]]
        values = trials[-1].intermediate_values if trials else {}
        if values and len(curves) < MOST_CURVES:
            curves[f"trial {row['trial']}"] = [(step, sign * values[step]) for step in sorted(values)]
    note = f"The {MOST_CURVES} best trials." if len(rows) > MOST_CURVES else ""
    return LineChart("How they learnt", curves, "step", metric, note) if curves else None
