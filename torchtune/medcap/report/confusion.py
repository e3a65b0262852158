"""Which answers are taken for which others: counts, drawn as heat maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from medcap.report.charts import number
from medcap.report.sections import Section

MOST_CLASSES = 8
OTHER = "other"
NO_ANSWER = "no answer"
EMPTY = "(empty)"
NO_ANSWER_LONG = "no answer, or none of these"


@dataclass(frozen=True)
class Cell:
    """A cell of a heat map.

    Attributes:
        kind: right, wrong, or mixed, where right and wrong answers meet.
        count: count as it is printed; "" for 0.
        share: share of its row.
        words: its tooltip.
    """

    kind: str
    count: str
    share: float
    words: str


@dataclass(frozen=True)
class Confusion:
    """How often each right answer got each answer.

    Attributes:
        labels: the classes in their order, the most frequent right answer first; the rest, where there is one, stands
            in a last row and column of its own.
        counts: [rows, columns] a row for each class and for the rest, if ``merged``; a column for each of these and a
            last one for rows that have no answer or one that is not a class anywhere.
        merged: how many classes the rest stands for.
        merged_right: how many rows of the rest are right: where it meets itself, right and wrong answers meet.
    """

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    merged: int = 0
    merged_right: int = 0

    @property
    def summary(self) -> str:
        """Rows, and what became of them."""
        facts = [f"{self.n:,} rows"]
        if self.n:
            facts.append(f"{100.0 * self.right / self.n:.1f} % right")
        if self.unanswered:
            facts.append(f"{self.unanswered:,} without an answer")
        return ", ".join(facts)

    @property
    def rows(self) -> list[tuple[str, str]]:
        """Short and long label of each row."""
        rest = [(OTHER, f"{OTHER} ({self.merged} answers)")] if self.merged else []
        return [*((label, label) for label in self.labels), *rest]

    @property
    def columns(self) -> list[tuple[str, str]]:
        """Short and long label of each column."""
        return [*self.rows, (NO_ANSWER, NO_ANSWER_LONG)]

    def cells(self, row: int) -> list[Cell]:
        """Return the cells of a row, from 0."""
        total = sum(self.counts[row])
        cells = []
        for column, count in enumerate(self.counts[row]):
            kind = "wrong" if column != row else "right" if row < len(self.labels) else "mixed"
            words = f"right answer: {self.rows[row][1]}; given: {self.columns[column][1]}: {count:,} of {total:,}"
            words += f", {self.merged_right:,} of them right" if kind == "mixed" else ""
            words += f" ({100 * count / total:.0f} %)" if total else ""
            cells.append(Cell(kind, number(count) if count else "", count / total if total else 0.0, words))
        return cells

    @property
    def n(self) -> int:
        """All rows."""
        return sum(map(sum, self.counts))

    @property
    def right(self) -> int:
        """Rows with the right answer."""
        return sum(self.counts[index][index] for index in range(len(self.labels))) + self.merged_right

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
    index_of = {key: index for index, key in enumerate(kept)}
    rest, size = len(kept), len(kept) + (len(kept) < len(classes))
    counts = [[0] * (size + 1) for _ in range(size)]
    merged_right = 0
    for (right, given), count in cells.items():
        row = index_of.get(right, rest)
        counts[row][index_of.get(given, rest) if given else size] += count
        merged_right += count if row == rest and right == given else 0
    return Confusion(
        tuple(shown[key] for key in kept), tuple(map(tuple, counts)), len(classes) - len(kept), merged_right
    )


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


@dataclass(frozen=True)
class ConfusionMaps(Section):
    """Heat maps of right answers against given answers, as many side by side as there is room for.

    Attributes:
        title: above them.
        matrices: what each is of, such as the modality -> its counts.
        note: a sentence before the one that explains how to read them.
    """

    template = "confusion.html.j2"

    title: str
    matrices: Mapping[str, Confusion]
    note: str = ""

    @property
    def merged(self) -> bool:
        """Whether any map sums up rare answers."""
        return any(matrix.merged for matrix in self.matrices.values())
