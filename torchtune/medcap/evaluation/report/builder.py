"""A page about results: one HTML file that needs no network, no script and no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from medcap.data.images import ImageReader
from medcap.evaluation.files import make_folder, write_text
from medcap.evaluation.report.charts import Points, line_chart, strip
from medcap.evaluation.report.confusion import Confusion, confusion, heat_map
from medcap.evaluation.report.gallery import OPTIONS_LEGEND, SAMPLE_LIMIT, Sample, choose_samples, gallery
from medcap.evaluation.report.parallel import Axis, parallel_coordinates
from medcap.evaluation.report.protocol_table import ProtocolLine, protocol_table
from medcap.evaluation.report.style import STYLE

__all__ = ["Axis", "Bar", "Card", "Confusion", "ProtocolLine", "Report", "Sample", "confusion"]

# The page may show what is written in it and nothing else, whatever a model wrote into it.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_LEGEND = (
    "Words of the reference that were not said are marked <del>like this</del>, words that the reference does not"
    " have <ins>like this</ins>."
)

_CONFUSION_LEGEND = (
    'Down the right answers, across the answers that were given, with the number of rows: <span class="key right">right'
    '</span> or <span class="key wrong">wrong</span>, the stronger the larger the share of its line.'
)
_MERGED_LEGEND = 'Rare answers are summed as <span class="key mixed">other</span>, where right and wrong ones meet.'


@dataclass(frozen=True)
class Card:
    """A key figure.

    Attributes:
        label: what it is.
        value: as it is to be read.
        detail: a short line below.
        span: (low, value, high), each 0..1, drawn as a strip.
        main: whether it is the page's first number.
    """

    label: str
    value: str
    detail: str = ""
    span: tuple[float, float, float] | None = None
    main: bool = False


@dataclass(frozen=True)
class Bar:
    """A table cell that shows a share of 1 with its interval."""

    value: float
    low: float
    high: float


class Report:
    """Collects sections and writes the page.

    Args:
        title: of the page.
        subtitle: a sentence below it.
        eyebrow: a short line above it.
        reader: opens the galleries' images; without one an image must lie where its path says.

    Example:
        >>> report = Report("VQA-RAD", "451 questions")
        >>> report.add_cards([Card("Accuracy", "61.2 %", span=(0.57, 0.612, 0.65))])
        >>> report.add_gallery("Answers", [Sample("yes", ["no"], image="a.png", correct=False)])
        >>> report.write("results/report.html")
    """

    def __init__(self, title: str, subtitle: str = "", eyebrow: str = "medcap", reader: ImageReader | None = None):
        self.title = title
        self.subtitle = subtitle
        self.eyebrow = eyebrow
        self.reader = reader
        self._sections: list[str] = []
        self._panels: list[str] = []

    def add_cards(self, cards: Sequence[Card]) -> None:
        """Add key figures."""
        self._add(f'<section class="cards">{"".join(map(_card, cards))}</section>')

    def add_notices(self, lines: Sequence[str]) -> None:
        """Add what a reader must know; nothing if there are no lines."""
        if lines:
            items = "".join(f"<li>{escape(line)}</li>" for line in lines)
            self._add(f'<section><ul class="notices">{items}</ul></section>')

    def add_table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[Any]],
        note: str = "",
        wide: bool = False,
    ) -> None:
        """Add a table; tables and charts that follow one another share a row where there is room.

        Args:
            title: above it.
            columns: headings.
            rows: cells: text, numbers, None for a dash, or a :class:`Bar`.
            note: a sentence below the title.
            wide: give it a row of its own.
        """
        numeric = [all(_is_number(row[place]) for row in rows) for place in range(len(columns))]
        head = "".join(
            f'<th scope="col"{_class("number" if right else "")}>{escape(column)}</th>'
            for column, right in zip(columns, numeric, strict=True)
        )
        body = "".join(f"<tr>{''.join(map(_cell, row, numeric))}</tr>" for row in rows)
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        if wide:
            self._close_panels()
        self._add_panel(title, note, f'<div class="scroll">{table}</div>')
        if wide:
            self._close_panels()

    def add_chart(
        self, title: str, series: Mapping[str, Points], x_label: str = "step", y_label: str = "", note: str = ""
    ) -> None:
        """Add a line chart.

        Args:
            title: above it.
            series: name -> (x, y) pairs in the order of x.
            x_label: of the x axis.
            y_label: of the y axis; the title if empty.
            note: a sentence below the title.
        """
        self._add_panel(title, note, line_chart(series, x_label, y_label or title))

    def add_parallel(
        self, title: str, axes: Sequence[Axis], lines: Mapping[str, Sequence[Any]], best: str, note: str = ""
    ) -> None:
        """Add parallel coordinates, in a row of their own.

        Args:
            title: above them.
            axes: from left to right.
            lines: name -> its value on each axis.
            best: name of the line that stands out.
            note: a sentence below the title.
        """
        self._close_panels()
        self._add_panel(title, note, parallel_coordinates(axes, lines, best))
        self._close_panels()

    def add_protocols(self, title: str, lines: Sequence[ProtocolLine], note: str = "") -> None:
        """Add the scores of several rules side by side, with what they fall to without the right image.

        Args:
            title: above it.
            lines: one a protocol.
            note: a sentence below the title.
        """
        below = f'<p class="note">{escape(note)}</p>' if note else ""
        self._add(
            f'<section><h2>{escape(title)}</h2>{below}<div class="panel scroll">{protocol_table(lines)}</div></section>'
        )

    def add_confusion(self, title: str, matrices: Mapping[str, Confusion], note: str = "") -> None:
        """Add heat maps of right answers against given answers, as many side by side as there is room for.

        Args:
            title: above them.
            matrices: what each is of, such as the modality -> its counts.
            note: a sentence before the one that explains how to read them.
        """
        merged = _MERGED_LEGEND if any(matrix.merged for matrix in matrices.values()) else ""
        text = " ".join(part for part in (escape(note), _CONFUSION_LEGEND, merged) if part)
        maps = "".join(_confusion_panel(name, matrix) for name, matrix in matrices.items())
        heading = f'<h2>{escape(title)}</h2><p class="note">{text}</p>'
        self._add(f'<section>{heading}<div class="panels maps">{maps}</div></section>')

    def add_gallery(
        self,
        title: str,
        samples: Sequence[Sample],
        limit: int = SAMPLE_LIMIT,
        note: str = "",
        groups: str = "modalities",
    ) -> None:
        """Add pictures with reference and answer side by side, to be leafed through by verdict and by group.

        Args:
            title: above it.
            samples: all rows; which are shown is decided by a rule that the page states.
            limit: most rows to show.
            note: a sentence before that rule.
            groups: what the samples' ``group`` names, in the plural.
        """
        chosen, rule = choose_samples(samples, limit, groups)
        legends = [_LEGEND] if any(not sample.options for sample in chosen) else []
        legends += [OPTIONS_LEGEND] if any(sample.options for sample in chosen) else []
        text = " ".join(part for part in (escape(note), escape(rule), *legends) if part)
        cards = gallery(chosen, f"g{len(self._sections)}", self.reader, groups)
        self._add(f'<section><h2>{escape(title)}</h2><p class="note">{text}</p>{cards}</section>')

    def add_facts(self, title: str, facts: Mapping[str, Any]) -> None:
        """Add names and values that are folded away until somebody wants them."""
        items = "".join(f"<dt>{escape(str(key))}</dt><dd>{escape(_fact(value))}</dd>" for key, value in facts.items())
        self._add(
            f'<section><details class="panel"><summary>{escape(title)}</summary><dl class="facts">{items}</dl>'
            "</details></section>"
        )

    def html(self) -> str:
        """The whole page."""
        self._close_panels()
        lede = f'<p class="lede">{escape(self.subtitle)}</p>' if self.subtitle else ""
        return (
            '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
            f'<header><p class="eyebrow">{escape(self.eyebrow)}</p><h1>{escape(self.title)}</h1>{lede}</header>\n'
            + "\n".join(self._sections)
            + "\n</main>\n</body>\n</html>\n"
        )

    def write(self, path: str | Path) -> Path:
        """Write the page, complete or not at all.

        Args:
            path: the HTML file.

        Returns:
            The same path.
        """
        path = Path(path)
        make_folder(path.parent)
        write_text(path, self.html())
        return path

    def _add(self, section: str) -> None:
        self._close_panels()
        self._sections.append(section)

    def _add_panel(self, title: str, note: str, content: str) -> None:
        below = f'<p class="note">{escape(note)}</p>' if note else ""
        caption = f"<figcaption>{escape(title)}{below}</figcaption>"
        self._panels.append(f'<figure class="panel">{caption}{content}</figure>')

    def _close_panels(self) -> None:
        if self._panels:
            self._sections.append(f'<section class="panels">{"".join(self._panels)}</section>')
            self._panels = []


def _card(card: Card) -> str:
    drawn = strip(*card.span) if card.span else ""
    detail = f'<p class="detail">{escape(card.detail)}</p>' if card.detail else ""
    return (
        f'<div class="card{" main" if card.main else ""}"><p class="label">{escape(card.label)}</p>'
        f'<p class="value">{escape(card.value)}</p>{drawn}{detail}</div>'
    )


def _confusion_panel(name: str, matrix: Confusion) -> str:
    facts = [f"{matrix.n:,} rows", f"{100.0 * matrix.right / matrix.n:.1f} % right" if matrix.n else ""]
    facts.append(f"{matrix.unanswered:,} without an answer" if matrix.unanswered else "")
    note = f'<p class="note">{", ".join(fact for fact in facts if fact)}</p>'
    return (
        f'<figure class="panel"><figcaption>{escape(name)}{note}</figcaption>'
        f'<div class="scroll">{heat_map(matrix, name)}</div></figure>'
    )


def _cell(value: Any, right: bool) -> str:
    if isinstance(value, Bar):
        text = f"{100 * value.value:.1f} %"
        between = f"{100 * value.low:.1f} – {100 * value.high:.1f}"
        drawn = strip(value.low, value.value, value.high)
        return f'<td class="bar"><div>{drawn}<span>{text}</span><span class="between">{between}</span></div></td>'
    return f"<td{_class('number' if right else '')}>{escape(_text(value))}</td>"


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


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
