"""Parallel coordinates as inline SVG: what was tried and what came of it, a line a run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from medcap.evaluation.report.charts import number

WIDTH, HEIGHT = 1040, 340
SIDE, TOP, BOTTOM = 90, 40, 22
_TICKS = 5


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: above it.
        values: all that may stand on it from bottom to top, for values that are no numbers; empty for numbers.
        log: whether numbers are spaced by their logarithm.
    """

    label: str
    values: tuple[str, ...] = ()
    log: bool = False


def parallel_coordinates(axes: Sequence[Axis], lines: Mapping[str, Sequence[Any]], best: str) -> str:
    """Draw a line for each run across one axis for each quantity.

    Args:
        axes: from left to right, at least two.
        lines: name -> its value on each axis: a number, or one of the axis' ``values``.
        best: name of the line that stands out; it is drawn last.

    Returns:
        An ``<svg>`` element; a sentence where there is nothing to draw.
    """
    if not lines:
        return '<p class="empty">There are no finished runs to draw yet.</p>'
    scales = [_Scale(axis, [values[place] for values in lines.values()]) for place, axis in enumerate(axes)]
    places = [SIDE + (WIDTH - 2 * SIDE) * place / max(len(axes) - 1, 1) for place in range(len(axes))]
    body = [_axis(axis, scale, x) for axis, scale, x in zip(axes, scales, places, strict=True)]
    for name in sorted(lines, key=lambda name: name == best):
        points = [f"{x:.1f} {scale.y(value):.1f}" for x, scale, value in zip(places, scales, lines[name], strict=True)]
        told = ", ".join(
            f"{axis.label} {value if isinstance(value, str) else number(value)}"
            for axis, value in zip(axes, lines[name], strict=True)
        )
        group = '<g class="best">' if name == best else "<g>"
        body.append(
            f'{group}<path class="line" d="M{"L".join(points)}"><title>{escape(f"{name}: {told}")}</title></path></g>'
        )
    label = f"parallel coordinates: {', '.join(axis.label for axis in axes)}"
    return (
        f'<svg class="chart parallel" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(body)}</svg>"
    )


class _Scale:
    """Values of one axis -> heights."""

    def __init__(self, axis: Axis, values: Sequence[Any]) -> None:
        self._axis = axis
        if axis.values:
            self.low, self.high = 0.0, float(len(axis.values) - 1)
            self.ticks = {float(place): text for place, text in enumerate(axis.values)}
            return
        positions = [self._position(value) for value in values]
        self.low, self.high = min(positions), max(positions)
        steps = [self.low + (self.high - self.low) * step / (_TICKS - 1) for step in range(_TICKS)]
        if self.low == self.high:
            steps = [self.low]
        self.ticks = {step: number(10**step if axis.log else step) for step in steps}

    def y(self, value: Any) -> float:
        return self.height(self._position(value))

    def height(self, position: float) -> float:
        share = (position - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def _position(self, value: Any) -> float:
        if self._axis.values:
            return float(self._axis.values.index(value))
        return math.log10(value) if self._axis.log else float(value)


def _axis(axis: Axis, scale: _Scale, x: float) -> str:
    parts = [
        f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>',
        f'<text class="label" x="{x:.1f}" y="{TOP - 20}" text-anchor="middle">{escape(axis.label)}</text>',
    ]
    for position, text in scale.ticks.items():
        y = scale.height(position)
        parts.append(f'<line class="axis" x1="{x - 4:.1f}" x2="{x + 4:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="tick" x="{x - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{escape(text)}</text>')
    return "".join(parts)
