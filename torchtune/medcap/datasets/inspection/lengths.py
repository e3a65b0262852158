"""Lengths as a reader wants them: a few figures, and a histogram."""

from __future__ import annotations

from typing import Any

import numpy as np

_BAR = 40  # characters
_MOST_BINS = 20


def describe_lengths(values: np.ndarray) -> dict[str, Any]:
    """Figures and histogram of whole numbers.

    Args:
        values: ``[n]`` int64.

    Returns:
        ``rows``, ``total``, ``min``, ``mean``, ``median``, ``p95``, ``p99``, ``max``, and ``histogram``: bins of equal
        width with ``from``, ``to`` (the first number after it) and ``rows``. Without values only ``rows``, 0.
    """
    if not len(values):
        return {"rows": 0}
    low, high = int(values.min()), int(values.max())
    width = _round_up((high - low + 1) / _MOST_BINS)
    first = low // width * width
    counts = np.bincount((values - first) // width)
    # Of a length that is one row's, not between two rows'.
    median, p95, p99 = (int(np.percentile(values, share, method="inverted_cdf")) for share in (50, 95, 99))
    return {
        "rows": len(values),
        "total": int(values.sum()),
        "min": low,
        "mean": float(values.mean()),
        "median": median,
        "p95": p95,
        "p99": p99,
        "max": high,
        "histogram": [
            {"from": first + position * width, "to": first + (position + 1) * width, "rows": count}
            for position, count in enumerate(counts.tolist())
        ],
    }


def summary(lengths: dict[str, Any]) -> str:
    """One line of the figures."""
    if not lengths["rows"]:
        return "none"
    return (
        f"mean {lengths['mean']:,.1f}, median {lengths['median']:,}, 95 % up to {lengths['p95']:,}, 99 % up to"
        f" {lengths['p99']:,}, from {lengths['min']:,} to {lengths['max']:,}"
    )


def histogram_lines(lengths: dict[str, Any]) -> list[str]:
    """Return the histogram as text, a line a bin."""
    bins = lengths.get("histogram", [])
    most = max((entry["rows"] for entry in bins), default=1)
    return [
        f"  {entry['from']:>7,} - {entry['to'] - 1:>7,}  {entry['rows']:>9,}  " + "#" * -(-entry["rows"] * _BAR // most)
        for entry in bins
    ]


def _round_up(value: float) -> int:
    """1, 2 or 5 times a power of ten, at least the value."""
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= value:
                return factor * power
        power *= 10


def either(fewest: int, most: int | None) -> str:
    """Write a number, or the range of numbers up to another one."""
    return str(fewest) if most in (None, fewest) else f"{fewest} to {most}"
