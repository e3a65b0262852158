"""Charts of the share of rows or objects that reach each overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medcap.report.charts import SERIES_STYLES, LineChart, Points

ALL_ROWS = "all rows"
_THRESHOLDS = [step / 20 for step in range(21)]


@dataclass(frozen=True)
class Overlaps:
    """The lines of one chart.

    Attributes:
        title: above it.
        lines: overlaps, from 0 to 1, by the names of the lines.
        note: a sentence below the title.
    """

    title: str
    lines: Mapping[str, Sequence[float]]
    note: str = ""


def threshold_charts(groups: Sequence[Overlaps], x_label: str, y_label: str = "share of rows") -> list[LineChart]:
    """Draw the share of values that reach each threshold.

    Args:
        groups: the charts. Each but the first has a line of all values; with only one more it would repeat the first,
            and is left out.
        x_label: what the thresholds are.
        y_label: what the shares are of.
    """
    drawn = [(group, {name: values for name, values in group.lines.items() if values}) for group in groups]
    return [
        LineChart(
            group.title,
            {f"{name} (n = {len(values):,})": accuracy_curve(values) for name, values in lines.items()},
            x_label,
            y_label,
            group.note,
            y_range=(0.0, 1.0),
        )
        for position, (group, lines) in enumerate(drawn)
        if lines and (position == 0 or len(lines) > 2)
    ]


def accuracy_curve(overlaps: Sequence[float]) -> Points:
    """Return the share of values above 0, then the share that reaches each further threshold up to 1."""
    return [
        (limit, sum(overlap >= limit and overlap > 0 for overlap in overlaps) / len(overlaps)) for limit in _THRESHOLDS
    ]


def by_name(
    title: str, everything: Sequence[float], groups: Mapping[str, Sequence[float]], names: str, all_name: str = ALL_ROWS
) -> Overlaps:
    """Return a chart of all values and of the most frequent groups.

    Args:
        title: above it.
        everything: all values.
        groups: values by the names of their groups.
        names: what the groups are, in the plural.
        all_name: name of the line of all values.
    """
    frequent = sorted(groups, key=lambda name: (-len(groups[name]), name))
    kept = frequent[: SERIES_STYLES - 1]
    note = f"The {len(kept)} most frequent of {len(frequent)} {names}." if len(kept) < len(frequent) else ""
    return Overlaps(title, {all_name: everything, **{name: groups[name] for name in kept}}, note)
