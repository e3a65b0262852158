"""Intervals in words."""

from __future__ import annotations

from collections.abc import Callable

NO_INTERVAL = "no interval: one image"  # a single row or patient likewise


def between(low: float | None, high: float | None, show: Callable[[float], str], joined: str = " to ") -> str:
    """Return an interval in words for a table.

    Args:
        low: lower end; None where there is no interval.
        high: upper end.
        show: writes a number.
        joined: stands between the ends.

    Returns:
        Both ends, or why there are none.

    Example:
        >>> between(0.25, 0.5, "{:.2f}".format), between(None, None, "{:.2f}".format)
        ('0.25 to 0.50', 'no interval: one image')
    """
    return NO_INTERVAL if low is None or high is None else f"{show(low)}{joined}{show(high)}"
