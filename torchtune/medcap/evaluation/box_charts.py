"""Charts of a task's page: how many rows have a box of at least some IoU, overall, by modality and by size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medcap.report.charts import SERIES_STYLES, LineChart, Points
from medcap.scoring.question import Question

# Largest share of the image's area that the reference boxes of a row have together.
SIZES = (("small, below 1 %", 0.01), ("medium, 1 to 10 %", 0.1), ("large, above 10 %", float("inf")))
_THRESHOLDS = [step / 20 for step in range(21)]


def accuracy_charts(
    rows: Sequence[Question], overlaps: Mapping[str, Sequence[float | None]], rule: str
) -> list[LineChart]:
    """Draw the share of rows whose IoU reaches each threshold.

    Args:
        rows: the questions.
        overlaps: IoU of each row of the run itself and of its controls, the run first, by the names of their lines;
            None for a row that asks for no box.
        rule: what the IoU of a row is, as a sentence.

    Returns:
        A chart of run and controls, one by modality and one by size; those with a single line are left out.
    """
    own = next(iter(overlaps.values()))
    asked = [(row, overlap) for row, overlap in zip(rows, own, strict=True) if overlap is not None]
    everything = [overlap for _, overlap in asked]
    by_size: dict[str, list[float]] = {name: [] for name, _ in SIZES}
    by_modality: dict[str, list[float]] = {}
    for row, overlap in asked:
        by_size[_size_of(row)].append(overlap)
        if row.meta.get("modality"):
            by_modality.setdefault(row.meta["modality"], []).append(overlap)
    frequent = sorted(by_modality, key=lambda name: (-len(by_modality[name]), name))
    kept = frequent[: SERIES_STYLES - 1]
    left_out = f"The {len(kept)} most frequent of {len(frequent)} modalities." if len(kept) < len(frequent) else ""
    known = {name: [value for value in values if value is not None] for name, values in overlaps.items()}
    groups = [
        ("Accuracy by IoU threshold", known, rule),
        ("The same by modality", {"all rows": everything, **{name: by_modality[name] for name in kept}}, left_out),
        (
            "The same by size",
            {"all rows": everything, **by_size},
            "Size: the share of the image that the reference boxes of a row have together.",
        ),
    ]
    drawn = [(title, {name: values for name, values in lines.items() if values}, note) for title, lines, note in groups]
    return [
        LineChart(
            title,
            {f"{name} (n = {len(values):,})": accuracy_curve(values) for name, values in lines.items()},
            "IoU threshold",
            "share of rows",
            note,
            y_range=(0.0, 1.0),
        )
        for position, (title, lines, note) in enumerate(drawn)
        if lines and (position == 0 or len(lines) > 2)
    ]


def accuracy_curve(overlaps: Sequence[float]) -> Points:
    """Return the share of values above 0, then the share that reaches each further threshold up to 1."""
    return [
        (limit, sum(overlap >= limit and overlap > 0 for overlap in overlaps) / len(overlaps)) for limit in _THRESHOLDS
    ]


def _size_of(row: Question) -> str:
    sides = [(right - left, bottom - top) for left, top, right, bottom in (box.edges for box in row.boxes or ())]
    area = sum(width * height for width, height in sides)
    return next(name for name, limit in SIZES if area <= limit)
