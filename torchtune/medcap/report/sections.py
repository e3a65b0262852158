"""The sections of a page: what they have in common, and those that show text and numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from medcap.report.intervals import between


class Section:
    """A part of a page: plain data, and the template that shows it.

    Attributes:
        template: a file in ``templates``, which sees the data as ``section``.
        style: class of the ``<section>`` element in the style sheet.
        wide: whether it takes a row of its own. Narrow sections that follow one another share a row.
    """

    template: ClassVar[str]
    style: ClassVar[str] = ""
    wide: bool = True


@dataclass(frozen=True)
class Bar:
    """A share of 1 with its interval, drawn as a strip.

    Attributes:
        value: the share.
        low: lower end of the interval; None where there is none, because all rows are of one image or patient.
        high: upper end.
    """

    value: float
    low: float | None
    high: float | None

    @property
    def text(self) -> str:
        """The share in percent."""
        return f"{100 * self.value:.1f} %"

    @property
    def between(self) -> str:
        """The interval in percent, or why there is none."""
        return between(self.low, self.high, lambda end: f"{100 * end:.1f}", " – ")

    @property
    def drawn(self) -> tuple[float, float, float]:
        """Low, value and high in percent of the strip's length; without an interval, the value three times."""
        ends = [self.value if end is None else end for end in (self.low, self.high)]
        low, value, high = (100.0 * min(max(share, 0.0), 1.0) for share in (ends[0], self.value, ends[1]))
        return low, value, high


@dataclass(frozen=True)
class Card:
    """A key figure.

    Attributes:
        label: what it is.
        value: value as it is displayed.
        detail: a short line below.
        bar: drawn below the value.
        main: whether it is the page's first number.
    """

    label: str
    value: str
    detail: str = ""
    bar: Bar | None = None
    main: bool = False


@dataclass(frozen=True)
class Cards(Section):
    """Key figures side by side."""

    template = "cards.html.j2"
    style = "cards"

    cards: Sequence[Card]


@dataclass(frozen=True)
class Notices(Section):
    """Lines that a reader must know."""

    template = "notices.html.j2"

    lines: Sequence[str]


@dataclass(frozen=True)
class Table(Section):
    """A table.

    Attributes:
        title: above it.
        columns: headings.
        rows: cells: text, numbers, None for a dash, or a :class:`Bar`.
        note: a sentence below the title.
        wide: whether it takes a row of its own.
    """

    template = "table.html.j2"
    style = "panels"

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    wide: bool = False

    @property
    def heads(self) -> list[tuple[str, bool]]:
        """Each heading, and whether its column holds numbers only."""
        return [(column, all(_is_number(row[index]) for row in self.rows)) for index, column in enumerate(self.columns)]

    @property
    def cells(self) -> list[list[tuple[str, Bar | None]]]:
        """Each row's cells: the text, and a bar where one is drawn."""
        return [
            [(cell.text, cell) if isinstance(cell, Bar) else (_text(cell), None) for cell in row] for row in self.rows
        ]


@dataclass(frozen=True)
class Facts(Section):
    """Names and values that stay folded away until a reader opens them."""

    template = "facts.html.j2"

    title: str
    facts: Mapping[str, Any]

    @property
    def lines(self) -> list[tuple[str, str]]:
        """Names and values as text."""
        return [(str(name), _fact(value)) for name, value in self.facts.items()]


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _text(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3f}" if value == 0 or 1e-3 <= abs(value) < 1e4 else f"{value:.3g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return str(value)


def _fact(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return str(value)
