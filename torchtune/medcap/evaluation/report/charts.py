"""Line charts and interval strips as inline SVG, drawn here so that a page needs nothing from elsewhere."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from html import escape

Points = Sequence[tuple[float, float]]

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 72, 16, 12, 44
SERIES_STYLES = 6
MOST_POINTS = 240
_MOST_MARKED = 24


def line_chart(series: Mapping[str, Points], x_label: str, y_label: str) -> str:
    """Draw series of points as lines.

    Series are told apart by colour, dash pattern and marker, all from the style sheet of the page.

    Args:
        series: name -> (x, y) pairs in the order of x; a y that is not finite interrupts the line.
        x_label: below the x axis.
        y_label: above the y axis.

    Returns:
        An ``<svg>`` element and, for several series, a legend; a sentence where there is nothing to draw.
    """
    drawn = {name: [_finite_or_none(point) for point in points] for name, points in series.items()}
    known = [point for points in drawn.values() for point in points if point is not None]
    if not known:
        return '<p class="empty">There are no points to draw yet.</p>'
    x_low, x_high = min(x for x, _ in known), max(x for x, _ in known)
    x_ticks = ticks(x_low, x_high, most=9)
    y_ticks = ticks(min(y for _, y in known), max(y for _, y in known))
    if x_low < x_high:
        # Curves run from edge to edge; only the height gets round ends.
        x_ticks = [value for value in x_ticks if x_low - 1e-9 <= value <= x_high * (1 + 1e-9)]
        scale = _Scale(x_low, x_high, y_ticks[0], y_ticks[-1])
    else:
        scale = _Scale(x_ticks[0], x_ticks[-1], y_ticks[0], y_ticks[-1])
    body = [_axes(scale, x_ticks, y_ticks, x_label, y_label)]
    longest = max(len(points) for points in drawn.values())
    for place, (name, points) in enumerate(drawn.items()):
        body.append(_series(name, _thin(points), place, scale))
    label = f"{y_label} over {x_label}: {', '.join(series)}"
    svg = (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(body)}</svg>"
    )
    note = ""
    if longest > MOST_POINTS:
        note = f'<p class="note">Each point is the mean of up to {math.ceil(longest / MOST_POINTS)} values.</p>'
    return _legend(list(series)) + svg + note


def strip(low: float, value: float, high: float) -> str:
    """Draw a share of 1 as a bar with its interval.

    Args:
        low: lower end of the interval.
        value: the share.
        high: upper end.

    Returns:
        An ``<svg>`` element as wide as its place.
    """
    low, value, high = (100.0 * min(max(number, 0.0), 1.0) for number in (low, value, high))
    return (
        '<svg class="strip" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        '<rect class="track" width="100" height="12" rx="2"/>'
        f'<rect class="fill" width="{value:.2f}" height="12" rx="2"/>'
        f'<rect class="span" x="{low:.2f}" y="4.5" width="{max(high - low, 0.3):.2f}" height="3"/>'
        f'<rect class="point" x="{max(value - 0.4, 0.0):.2f}" y="1" width="0.8" height="10"/></svg>'
    )


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers that enclose a range.

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
    """A number as short as an axis wants it: 12k, 0.25, 1e-5."""
    if value == 0:
        return "0"
    size = abs(value)
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if limit <= size < 1e12:
            unit = {"G": 1e9, "M": 1e6, "k": 1e3}[letter]
            return f"{value / unit:.4g}{letter}"
    return re.sub(r"e([+-])0+", r"e\1", f"{value:.4g}")


class _Scale:
    """Data -> SVG coordinates."""

    def __init__(self, x_low: float, x_high: float, y_low: float, y_high: float) -> None:
        self.x_low, self.x_span = x_low, x_high - x_low
        self.y_low, self.y_span = y_low, y_high - y_low

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / self.x_span * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / self.y_span * (HEIGHT - TOP - BOTTOM)


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


def _axes(scale: _Scale, x_ticks: list[float], y_ticks: list[float], x_label: str, y_label: str) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    parts = []
    for value in y_ticks:
        y = scale.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{number(value)}</text>')
    for value in x_ticks:
        x = scale.x(value)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 5}"/>')
        anchor = "end" if x > right - 8 else "middle"
        place = right if anchor == "end" else x
        parts.append(
            f'<text class="tick" x="{place:.1f}" y="{bottom + 19}" text-anchor="{anchor}">{number(value)}</text>'
        )
    middle = (TOP + bottom) / 2
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    parts.append(
        f'<text class="label" x="{(LEFT + right) / 2:.0f}" y="{HEIGHT - 7}" text-anchor="middle">'
        f"{escape(x_label)}</text>"
        f'<text class="label" transform="translate(13 {middle:.0f}) rotate(-90)" text-anchor="middle">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _series(name: str, points: list[tuple[float, float] | None], place: int, scale: _Scale) -> str:
    path, pen_up = [], True
    for point in points:
        if point is not None:
            path.append(f"{'M' if pen_up else 'L'}{scale.x(point[0]):.1f} {scale.y(point[1]):.1f}")
        pen_up = point is None
    style = place % SERIES_STYLES
    known = [point for point in points if point is not None]
    marked = known if len(known) <= _MOST_MARKED else known[-1:]
    marks = "".join(_marker(style, scale.x(x), scale.y(y), f"{name}: {number(y)} at {number(x)}") for x, y in marked)
    return f'<g class="series s{style}"><path class="line" d="{"".join(path)}"/>{marks}</g>'


def _marker(style: int, x: float, y: float, title: str = "") -> str:
    tip = f"<title>{escape(title)}</title>" if title else ""
    if style % 3 == 0:
        return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="3.6">{tip}</circle>'
    if style % 3 == 1:
        return f'<rect class="mark" x="{x - 3.3:.1f}" y="{y - 3.3:.1f}" width="6.6" height="6.6">{tip}</rect>'
    corners = f"{x:.1f},{y - 4.4:.1f} {x - 4.2:.1f},{y + 3.2:.1f} {x + 4.2:.1f},{y + 3.2:.1f}"
    return f'<polygon class="mark" points="{corners}">{tip}</polygon>'


def _legend(names: list[str]) -> str:
    if len(names) < 2:
        return ""
    items = []
    for place, name in enumerate(names):
        style = place % SERIES_STYLES
        swatch = f'<path class="line" d="M1 7H33"/>{_marker(style, 17, 7)}'
        items.append(
            f'<li><svg class="swatch" viewBox="0 0 34 14" aria-hidden="true"><g class="series s{style}">{swatch}</g>'
            f"</svg>{escape(name)}</li>"
        )
    return f'<ul class="legend">{"".join(items)}</ul>'
