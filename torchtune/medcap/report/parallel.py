"""Parallel coordinates: what was tried and what came of it, one line for each run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from medcap.report.charts import number
from medcap.report.sections import Section

WIDTH, HEIGHT = 1040, 340
SIDE, TOP, BOTTOM = 90, 40, HEIGHT - 22
_TICKS = 5


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        label: above it.
        values: all its values from bottom to top, for values that are not numbers; empty for numbers.
        log: whether numbers are spaced by their logarithm.
    """

    label: str
    values: tuple[str, ...] = ()
    log: bool = False


@dataclass(frozen=True)
class ParallelCoordinates(Section):
    """A line for each run across one axis for each quantity.

    Attributes:
        title: above them.
        axes: axes from left to right, at least two.
        lines: name -> its value on each axis: a number, or one of the axis' ``values``.
        best: name of the line that stands out; it is drawn last.
        note: a sentence below the title.
    """

    template = "parallel.html.j2"
    style = "panels"
    width: ClassVar = WIDTH
    height: ClassVar = HEIGHT
    top: ClassVar = TOP
    bottom: ClassVar = BOTTOM

    title: str
    axes: Sequence[Axis]
    lines: Mapping[str, Sequence[Any]]
    best: str
    note: str = ""

    def drawing(self) -> Drawing:
        """Lay the lines out."""
        scales = [
            _Scale(axis, [values[index] for values in self.lines.values()]) for index, axis in enumerate(self.axes)
        ]
        lefts = [round(SIDE + (WIDTH - 2 * SIDE) * index / max(len(scales) - 1, 1), 1) for index in range(len(scales))]
        paths = []
        for name in sorted(self.lines, key=lambda name: name == self.best):
            values = list(zip(self.axes, scales, lefts, self.lines[name], strict=True))
            points = [f"{x} {scale.y(value)}" for _, scale, x, value in values]
            words = [
                f"{axis.label} {value if isinstance(value, str) else number(value)}" for axis, _, _, value in values
            ]
            paths.append((f"M{'L'.join(points)}", f"{name}: {', '.join(words)}", name == self.best))
        axes = [(x, axis.label, scale.ticks) for x, axis, scale in zip(lefts, self.axes, scales, strict=True)]
        return Drawing(axes, paths)


@dataclass(frozen=True)
class Drawing:
    """Parallel coordinates in SVG coordinates.

    Attributes:
        axes: x, label and ticks, each a height and a text.
        paths: ``d`` of an SVG ``<path>``, its tooltip, and whether it is the best.
    """

    axes: list[tuple[float, str, list[tuple[float, str]]]]
    paths: list[tuple[str, str, bool]]


class _Scale:
    """Values of one axis -> heights."""

    def __init__(self, axis: Axis, values: Sequence[Any]) -> None:
        self._axis = axis
        if axis.values:
            self._low, self._high = 0.0, float(len(axis.values) - 1)
            self.ticks = [(self._height(index), text) for index, text in enumerate(axis.values)]
            return
        positions = [self._position(value) for value in values]
        self._low, self._high = min(positions), max(positions)
        steps = [self._low + (self._high - self._low) * step / (_TICKS - 1) for step in range(_TICKS)]
        if self._low == self._high:
            steps = [self._low]
        self.ticks = [(self._height(step), number(10**step if axis.log else step)) for step in steps]

    def y(self, value: Any) -> float:
        return self._height(self._position(value))

    def _height(self, position: float) -> float:
        share = (position - self._low) / (self._high - self._low) if self._high > self._low else 0.5
        return round(BOTTOM - share * (BOTTOM - TOP), 1)

    def _position(self, value: Any) -> float:
        if self._axis.values:
            return float(self._axis.values.index(value))
        return math.log10(value) if self._axis.log else float(value)
