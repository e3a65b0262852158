"""A sweep's page: the best trial, parallel coordinates, learning curves and the table."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from medcap.evaluation.report.builder import Axis, Card, Report
from medcap.sweep.definition import Definition
from medcap.sweep.objective import watched
from medcap.sweep.table import best

MOST_CURVES = 6


def write_page(
    path: Path, definition: Definition, rows: Sequence[dict[str, Any]], attempts: dict[int, list[FrozenTrial]]
) -> None:
    """Write the page, complete or not at all.

    Args:
        path: the HTML file.
        definition: of the sweep.
        rows: of the table.
        attempts: slot -> its trials; the last one's intermediate values are its curve.
    """
    objective = definition.objective
    finished = [row for row in rows if row["value"] is not None]
    winner = best(definition, rows)
    counts = Counter(row["state"] for row in rows)
    report = Report(
        f"Sweep {definition.name}",
        f"{definition.train.recipe} with {definition.train.config}; {objective.direction} {objective.metric}.",
    )
    cards = [Card("trials", f"{len(rows):,}", ", ".join(f"{count} {state}" for state, count in counts.items()))]
    if winner is not None:
        tried = ", ".join(f"{key}={winner[key]}" for key in definition.keys)
        cards.insert(
            0,
            Card(f"best {objective.metric}", f"{winner['value']:.5g}", f"trial {winner['trial']}: {tried}", None, True),
        )
    report.add_cards(cards)
    if winner is not None:
        axes = [*(_axis(definition, key, finished) for key in definition.keys), Axis(objective.metric)]
        lines = {
            f"trial {row['trial']}": [*(_value(definition, key, row[key]) for key in definition.keys), row["value"]]
            for row in finished
        }
        note = "A line a finished trial; the thick one is the best."
        report.add_parallel("What was tried and what came of it", axes, lines, f"trial {winner['trial']}", note)
    metric, sign = watched(objective)
    curves = _curves(definition, rows, attempts, sign)
    if curves:
        note = f"The {MOST_CURVES} best trials." if len(rows) > MOST_CURVES else ""
        report.add_chart("How they learnt", curves, "step", metric, note)
    shown = ["trial", "state", "value", *definition.keys, "step", "attempts", "seconds", "reason"]
    report.add_table("Trials", shown, [[row[name] for name in shown] for row in rows], wide=True)
    report.write(path)


def _axis(definition: Definition, key: str, rows: Sequence[dict[str, Any]]) -> Axis:
    if key in definition.ranges:
        return Axis(key, log=definition.ranges[key]["log"])
    return Axis(key, tuple(definition.choices[key]))


def _value(definition: Definition, key: str, value: Any) -> Any:
    return value if key in definition.ranges else str(value)


def _curves(
    definition: Definition, rows: Sequence[dict[str, Any]], attempts: dict[int, list[FrozenTrial]], sign: int
) -> dict[str, list[tuple[float, float]]]:
    worst = math.inf
    order = 1 if definition.objective.direction == "minimize" else -1
    ranked = sorted(rows, key=lambda row: worst if row["value"] is None else order * row["value"])
    curves = {}
    for row in ranked:
        trials = attempts[row["trial"]]
        values = trials[-1].intermediate_values if trials else {}
        if values and len(curves) < MOST_CURVES:
            curves[f"trial {row['trial']}"] = [(step, sign * values[step]) for step in sorted(values)]
    return curves
