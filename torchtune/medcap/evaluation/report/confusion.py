"""Which answers are taken for which others: heat maps as inline SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from medcap.evaluation.report.charts import number

MOST_CLASSES = 8
OTHER = "other"
NO_ANSWER = "no answer"
EMPTY = "(empty)"
NO_ANSWER_LONG = "no answer, or none of these"
_CELL_WIDTH, _CELL_HEIGHT, _GAP = 34, 30, 2
_CHARACTER = 8.2  # room for one at the style sheet's 13 pixels, and for most of them at a phone's 14.5
_ROW_CHARACTERS, _HEAD_CHARACTERS = 13, 12
_RIGHT = 46  # the last heading leans out
_MANY_COLUMNS = 7


@dataclass(frozen=True)
class Confusion:
    """How often each right answer got each answer.

    Attributes:
        labels: the classes in their order, the most frequent right answer first; the rest, where there is one, stands
            in a last row and column of its own.
        counts: [rows, columns] a row for each class and for the rest, if ``merged``; a column for each of these and a
            last one for rows that have no answer or one that is no class anywhere.
        merged: how many classes the rest stands for.
        merged_right: how many rows of the rest are right: where it meets itself, right and wrong answers meet.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    merged: int = 0
    merged_right: int = 0

    @property
    def n(self) -> int:
        """All rows."""
        return sum(map(sum, self.counts))

    @property
    def right(self) -> int:
        """Rows with the right answer."""
        return sum(self.counts[place][place] for place in range(len(self.labels))) + self.merged_right

    @property
    def unanswered(self) -> int:
        """Rows of the last column."""
        return sum(row[-1] for row in self.counts)


def confusion(pairs: Iterable[tuple[str, str]], most: int = MOST_CLASSES) -> Confusion:
    """Count right answers against given answers.

    Two texts are one class when they are equal without case and with white space joined.

    Args:
        pairs: (right answer, given answer) a row; "" where there is no answer or it could not be taken for one. An
            answer that is the right one nowhere is a class like the others.
        most: largest number of classes that get a row of their own, those that are right most often first.

    Returns:
        The counts.
    """
    cells: Counter[tuple[str, str]] = Counter()
    shown_right: dict[str, str] = {}
    shown_given: dict[str, str] = {}
    for right, given in pairs:
        right = right if right.strip() else EMPTY
        shown_right.setdefault(_key(right), " ".join(right.split()))
        shown_given.setdefault(_key(given), " ".join(given.split()))
        cells[_key(right), _key(given)] += 1
    shown = {**shown_given, **shown_right}
    as_right: Counter[str] = Counter()
    as_given: Counter[str] = Counter()
    for (right, given), count in cells.items():
        as_right[right] += count
        as_given[given] += count
    classes = sorted((key for key in shown if key), key=lambda key: (-as_right[key], -as_given[key], key))
    # A rest of one class would take the room of that class.
    kept = classes if len(classes) <= most + 1 else classes[:most]
    place_of = {key: place for place, key in enumerate(kept)}
    rest, size = len(kept), len(kept) + (len(kept) < len(classes))
    counts = [[0] * (size + 1) for _ in range(size)]
    merged_right = 0
    for (right, given), count in cells.items():
        row = place_of.get(right, rest)
        counts[row][place_of.get(given, rest) if given else size] += count
        merged_right += count if row == rest and right == given else 0
    return Confusion(
        tuple(shown[key] for key in kept), tuple(map(tuple, counts)), len(classes) - len(kept), merged_right
    )


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


def heat_map(matrix: Confusion, name: str) -> str:
    """Draw a confusion: right answers down, given answers across, each cell with its count, shaded by its row's share.

    Args:
        matrix: the counts.
        name: what it is of, for those who cannot see it.

    Returns:
        An ``<svg>`` element as wide as it has columns, or less where there is less room; a sentence where there is
        nothing to draw.
    """
    if not matrix.counts:
        return '<p class="empty">There are no rows to count yet.</p>'
    rows = [*matrix.labels, *([OTHER] if matrix.merged else [])]
    titles = [*matrix.labels, *([f"{OTHER} ({matrix.merged} answers)"] if matrix.merged else [])]
    columns, column_titles = [*rows, NO_ANSWER], [*titles, NO_ANSWER_LONG]
    left = round(10 + _CHARACTER * min(max(map(len, rows)), _ROW_CHARACTERS))
    top = round(16 + 0.71 * _CHARACTER * min(max(map(len, columns)), _HEAD_CHARACTERS))
    width = left + len(columns) * _CELL_WIDTH + _RIGHT
    height = top + len(rows) * _CELL_HEIGHT
    parts = []
    for place, (label, title) in enumerate(zip(columns, column_titles, strict=True)):
        x = left + (place + 0.5) * _CELL_WIDTH
        parts.append(
            f'<text class="across" transform="translate({x:.0f} {top - 6}) rotate(-45)">'
            f"{_label(label, title, _HEAD_CHARACTERS)}</text>"
        )
    for place, (label, title) in enumerate(zip(rows, titles, strict=True)):
        y = top + place * _CELL_HEIGHT
        parts.append(
            f'<text class="down" x="{left - 7}" y="{y + 19}" text-anchor="end">'
            f"{_label(label, title, _ROW_CHARACTERS)}</text>"
        )
        total = sum(matrix.counts[place])
        for column, count in enumerate(matrix.counts[place]):
            kind = "right" if column == place and place < len(matrix.labels) else "wrong"
            kind = "mixed" if column == place == len(matrix.labels) else kind
            text = f"right answer: {title}; given: {column_titles[column]}: {count:,} of {total:,}"
            text += f", {matrix.merged_right:,} of them right" if kind == "mixed" else ""
            parts.append(_cell(left + column * _CELL_WIDTH, y, count, total, kind, text))
    summary = f"{name}: {len(rows)} right answers by {len(columns)} given answers; {matrix.right} of {matrix.n} right"
    size = " wide" if len(columns) >= _MANY_COLUMNS else ""
    return (
        f'<svg class="confusion{size}" width="{width}" viewBox="0 0 {width} {height}" role="img"'
        f' aria-label="{escape(summary)}">{"".join(parts)}</svg>'
    )


def _cell(x: int, y: int, count: int, total: int, kind: str, text: str) -> str:
    share = count / total if total else 0.0
    box = f'x="{x}" y="{y}" width="{_CELL_WIDTH - _GAP}" height="{_CELL_HEIGHT - _GAP}" rx="4"'
    shade = f'<rect class="shade" {box} fill-opacity="{0.1 + 0.9 * share:.2f}"/>' if count else ""
    label = (
        f'<text class="count" x="{x + (_CELL_WIDTH - _GAP) / 2:.0f}" y="{y + 19}" text-anchor="middle">{number(count)}'
        "</text>"
        if count
        else ""
    )
    tip = f"<title>{escape(text)}{f' ({100 * share:.0f} %)' if total else ''}</title>"
    return f'<g class="cell {kind}">{tip}<rect class="ground" {box}/>{shade}{label}</g>'


def _label(text: str, title: str, most: int) -> str:
    short = text if len(text) <= most else text[: most - 1].rstrip() + "…"
    return f"<title>{escape(title)}</title>{escape(short)}"
