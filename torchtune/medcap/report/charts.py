"""Line charts as inline SVG: the geometry. What is drawn there is in ``line_chart.svg.j2``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from medcap.report.sections import Section

Points = Sequence[tuple[float, float]]
_Place = Callable[[float, float], tuple[float, float]]

WIDTH, HEIGHT = 560, 300
SERIES_STYLES = 6
MOST_POINTS = 240
_MOST_MARKED = 24


@dataclass(frozen=True)
class Line:
    """A series as it is drawn.

    Attributes:
        name: name of the series.
        style: number of its colour, dash pattern and marker in the style sheet.
        path: path of an SVG ``<path>``.
        marks: x, y and words of each point that gets a marker.
    """

    name: str
    style: int
    path: str
    marks: list[tuple[float, float, str]]


@dataclass(frozen=True)
class Drawing:
    """A line chart in SVG coordinates.

    Attributes:
        x_ticks: position and number of each tick on the x axis.
        y_ticks: position and number of each tick on the y axis.
        lines: one for each series.
        mean_of: how many values a point stands for at most; 1 where every value is drawn.
    """

    width: ClassVar = WIDTH
    height: ClassVar = HEIGHT
    # The edges of the plotted area.
    left: ClassVar = 72
    right: ClassVar = WIDTH - 16
    top: ClassVar = 12
    bottom: ClassVar = HEIGHT - 44

    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    lines: list[Line]
    mean_of: int


@dataclass(frozen=True)
class LineChart(Section):
    """Series of points as lines, distinguished by colour, dash pattern and marker.

    Attributes:
        title: above it.
        series: name -> (x, y) pairs in the order of x; a y that is not finite interrupts the line.
        x_label: below the x axis.
        y_label: label beside the y axis; the title if empty.
        note: a sentence below the title.
        y_range: values that the y axis has in any case.
    """

    template = "line_chart.html.j2"
    style = "panels"
    wide = False

    title: str
    series: Mapping[str, Points]
    x_label: str = "step"
    y_label: str = ""
    note: str = ""
    y_range: Sequence[float] = ()

    def drawing(self) -> Drawing | None:
        """Lay the chart out; None where there is nothing to draw."""
        series = {name: [_finite_or_none(point) for point in points] for name, points in self.series.items()}
        known = [point for points in series.values() for point in points if point is not None]
        if not known:
            return None
        x_low, x_high = min(x for x, _ in known), max(x for x, _ in known)
        x_ticks = ticks(x_low, x_high, most=9)
        heights = [*(y for _, y in known), *self.y_range]
        y_ticks = ticks(min(heights), max(heights))
        if x_low < x_high:
            # Curves run from edge to edge; only the height gets round ends.
            x_ticks = [value for value in x_ticks if x_low - 1e-9 <= value <= x_high * (1 + 1e-9)]
        else:
            x_low, x_high = x_ticks[0], x_ticks[-1]
        y_low, y_high = y_ticks[0], y_ticks[-1]

        def place(x: float, y: float) -> tuple[float, float]:
            across, up = (x - x_low) / (x_high - x_low), (y - y_low) / (y_high - y_low)
            width, height = Drawing.right - Drawing.left, Drawing.bottom - Drawing.top
            return round(Drawing.left + across * width, 1), round(Drawing.bottom - up * height, 1)

        return Drawing(
            [(place(value, y_low)[0], number(value)) for value in x_ticks],
            [(place(x_low, value)[1], number(value)) for value in y_ticks],
            [_line(name, _thin(points), index, place) for index, (name, points) in enumerate(series.items())],
            math.ceil(max(map(len, series.values())) / MOST_POINTS),
        )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Choose round numbers that enclose a range.

    Args:
        low: smallest value.
        high: largest value, may equal ``low``.
        most: upper limit of their number, about.

    Returns:
        Evenly spaced, from at most ``low`` to at least ``high``, with a step of 1, 2 or 5 times a power of ten.
    """
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-300):
        margin = abs(low) * 0.1 or 1.0
        low, high = low - margin, high + margin
    raw = (high - low) / (most - 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [index * step for index in range(first, last + 1)]


def number(value: float) -> str:
    """Write a number as short as an axis wants it: 12k, 0.25, 1e-5."""
    if value == 0:
        return "0"
    size = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if limit <= size < 1e12:
            unit = {"G": 1e9, "M": 1e6, "k": 1e3}[letter]
            return f"{value / unit:.4g}{letter}"
    return re.sub(r"e([+-])0+", r"e\1", f"{value:.4g}")


def _finite_or_none(point: tuple[float, float]) -> tuple[float, float] | None:
    x, y = point
    if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
        return None
    return float(x), float(y)


def _thin(points: list[tuple[float, float] | None]) -> list[tuple[float, float] | None]:
    if len(points) <= MOST_POINTS:
        return points
    size = math.ceil(len(points) / MOST_POINTS)
    thinned = []
    for start in range(0, len(points), size):
        group = [point for point in points[start : start + size] if point is not None]
        mean = (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) if group else None
        thinned.append(mean)
    return thinned


def _line(name: str, points: list[tuple[float, float] | None], index: int, place: _Place) -> Line:
    path, pen_up = [], True
    for point in points:
        if point is not None:
            x, y = place(*point)
            path.append(f"{'M' if pen_up else 'L'}{x} {y}")
        pen_up = point is None
    known = [point for point in points if point is not None]
    marked = known if len(known) <= _MOST_MARKED else known[-1:]
    marks = [(*place(x, y), f"{name}: {number(y)} at {number(x)}") for x, y in marked]
    return Line(name, index % SERIES_STYLES, "".join(path), marks)
