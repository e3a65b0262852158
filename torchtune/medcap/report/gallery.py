"""The picture part of a page: samples with reference and answer side by side."""

from __future__ import annotations

import difflib
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from markupsafe import Markup

from medcap.data.images.reader import ImageReader
from medcap.report.drawn_boxes import RowBoxes
from medcap.report.drawn_masks import RowMasks
from medcap.report.pictures import THUMBNAIL_SIDE, Pictures, PictureStore, spread
from medcap.report.sections import Section

if TYPE_CHECKING:
    from medcap.report.pictures import ShownImage

SAMPLE_LIMIT = 60
MOST_CHARACTERS = 2_000
MOST_GROUPS = 12  # that a gallery can be filtered by
_DRAWN_SIDE = 2 * THUMBNAIL_SIDE  # of a picture that boxes or masks are drawn over
# Verdict of a row -> its style class; None where the rule does not decide it.
_CLASSES: dict[bool | None, str] = {False: "no", True: "yes", None: "open"}


@dataclass(frozen=True)
class Sample:
    """One row of a gallery.

    Attributes:
        generated: what the model said; "" is shown as a failure.
        references: what was expected; the first is compared word by word.
        images: references, paths or pictures; none for a question without one.
        question: what was asked; "" hides the line.
        correct: True right, False wrong, None where there is no such verdict.
        score: name and value of the row's score.
        name: name of the row.
        tags: short facts, such as the modality.
        problem: why there is no answer or picture.
        group: what the page's second filter goes by, such as the modality; "" for none.
        options: options of a multiple-choice question; they are listed with the right and the chosen one marked.
        chosen: the option that ``generated`` was taken for; None for that which it equals, if any.
        boxes: the boxes that it asks for and those of its answer, to be drawn over the pictures; None for neither.
        masks: the masks that it asks for and those of its answer, in the same way.
    """

    generated: str
    references: Sequence[str]
    images: Sequence[ShownImage] = field(default_factory=tuple)
    question: str = ""
    correct: bool | None = None
    score: tuple[str, float] | None = None
    name: str = ""
    tags: Sequence[str] = field(default_factory=tuple)
    problem: str | None = None
    group: str = ""
    options: Sequence[str] = field(default_factory=tuple)
    chosen: str | None = None
    boxes: RowBoxes | None = None
    masks: RowMasks | None = None

    def read_pictures(self, store: PictureStore) -> Pictures:
        """Read its pictures; those that a box or a mask lies on are larger, and shown in any case."""
        if not self.is_drawn:
            return store.read(self.images)
        wanted = {number for part in (self.boxes, self.masks) if part is not None for number in part.images}
        return store.read(self.images, sorted(wanted), _DRAWN_SIDE)

    @property
    def verdict_class(self) -> str:
        """The style class of its verdict."""
        return _CLASSES[self.correct]

    @property
    def is_drawn(self) -> bool:
        """Whether boxes or masks lie over its pictures."""
        return self.boxes is not None or self.masks is not None

    @property
    def drawn_words(self) -> str:
        """What is drawn over its pictures, for those who cannot see it."""
        words = self.boxes.words if self.boxes is not None else ()
        return ", ".join([*words, *([self.masks.words] if self.masks is not None else [])])

    @property
    def shown_question(self) -> str:
        """The question, not longer than a page shows it."""
        return _shortened(self.question)

    @property
    def shown_answer(self) -> str:
        """The answer, not longer than a page shows it."""
        return _shortened(self.generated.strip())

    @property
    def plain_answer(self) -> str:
        """The answer as it is compared with options: without case, further white space and final full stops."""
        return _plain(self.generated)

    @property
    def facts(self) -> str:
        """Tags and name in a line."""
        return " · ".join(fact for fact in (*self.tags, self.name) if fact)

    @property
    def alternatives(self) -> str:
        """The accepted references after the first, in a line."""
        return " / ".join(map(_shortened, self.references[1:]))

    def compared(self) -> tuple[Markup, Markup]:
        """Return the first reference and the answer; see :func:`mark_differences`."""
        return mark_differences(_shortened(self.references[0] if self.references else ""), self.shown_answer)

    def listed(self) -> tuple[list[tuple[str, bool, bool]], bool]:
        """List the options.

        Returns:
            Each option's text, whether it is right and whether it was chosen; and whether the answer says more than
            the option that it was taken for, or was taken for none.
        """
        right = {_plain(reference) for reference in self.references}
        chosen = self.plain_answer if self.chosen is None else _plain(self.chosen)
        options = [
            (_shortened(option), _plain(option) in right, bool(chosen) and _plain(option) == chosen)
            for option in self.options
        ]
        return options, self.plain_answer != chosen or not any(is_chosen for _, _, is_chosen in options)


@dataclass(frozen=True)
class Gallery(Section):
    """Pictures with reference and answer side by side, to be leafed through by verdict and by group.

    Attributes:
        title: above it.
        samples: all rows; which are shown is decided by a rule that the page states.
        limit: most rows to show.
        note: a sentence before that rule.
        groups: what the samples' ``group`` names, in the plural.
        reader: opens images; without one an image must lie where its path says.
        worst_first: whether rows stand by their score, the lowest first, rather than in the order of the file.
    """

    template = "gallery.html.j2"

    title: str
    samples: Sequence[Sample]
    limit: int = SAMPLE_LIMIT
    note: str = ""
    groups: str = "modalities"
    reader: ImageReader | None = None
    worst_first: bool = False

    def shown(self) -> Shown:
        """Choose the rows, read their pictures and see which filters they need."""
        samples, rule = choose_samples(self.samples, self.limit, self.groups)
        if self.worst_first and len(samples) > 1:
            samples, rule = _worst_first(samples, rule)
        numbers, store = _group_numbers(samples), PictureStore(self.reader)
        cards = [(sample, numbers[sample.group], sample.read_pictures(store)) for sample in samples]
        verdicts: list[tuple[str, str]] = []
        groups: list[tuple[str, str]] = []
        if any(sample.correct is not None for sample in samples):
            counts = Counter(sample.correct for sample in samples)
            verdicts.append(("show-all", f"All {len(samples)}"))
            # The rule does not decide some rows: those that do not ask for what it scores.
            verdicts += [
                (f"show-{_CLASSES[verdict]}", f"{words} {counts[verdict]}")
                for verdict, words in ((False, "✗ Wrong"), (True, "✓ Right"), (None, "– Not scored"))
                if verdict is not None or counts[None]
            ]
        if len(set(numbers.values())) > 1:
            names = (f"All {self.groups}", *_group_names(numbers))
            groups = [(f"in-{number}", name) for number, name in enumerate(names)]
        return Shown(rule, cards, verdicts, groups, _empty_choices(samples, numbers) if verdicts and groups else [])


@dataclass(frozen=True)
class Shown:
    """What a gallery shows.

    Attributes:
        rule: rule by which the rows were chosen.
        cards: each row, the number of its group, and its pictures.
        verdicts: style class and words of each choice in the filter by verdict.
        groups: filter names of the rows, in the same form, for the filter by group.
        empty: style classes of the sentences for choices of both filters that leave no row.
    """

    rule: str
    cards: list[tuple[Sample, int, Pictures]]
    verdicts: list[tuple[str, str]]
    groups: list[tuple[str, str]]
    empty: list[str]

    @property
    def has_options(self) -> bool:
        """Whether a row lists options."""
        return any(sample.options for sample, _, _ in self.cards)

    @property
    def has_boxes(self) -> bool:
        """Whether boxes of a row are drawn."""
        return any(sample.boxes is not None for sample, _, _ in self.cards)

    @property
    def has_masks(self) -> bool:
        """Whether masks of a row are drawn."""
        return any(sample.masks is not None for sample, _, _ in self.cards)

    @property
    def has_texts(self) -> bool:
        """Whether a row is compared word by word."""
        return any(not sample.options for sample, _, _ in self.cards)


def choose_samples(
    samples: Sequence[Sample], limit: int = SAMPLE_LIMIT, groups: str = "modalities"
) -> tuple[list[Sample], str]:
    """Pick what a page can hold, by a rule that does not flatter.

    Args:
        samples: all rows in the order of their file.
        limit: most rows to show.
        groups: what the samples' ``group`` names, in the plural, for the sentence.

    Returns:
        The chosen rows in the order of the file, and the rule as a sentence. Where rows have a verdict: as many wrong
        as right ones and as those without one, and as many of each group, as there are, each evenly spaced over the
        file. Of rows that have a score but no verdict: evenly spaced from the lowest to the highest score.
    """
    total = len(samples)
    if total <= limit:
        return list(samples), f"All {total} rows are shown, in the order of the file." if total > 1 else ""
    if any(sample.correct is not None for sample in samples):
        cells: dict[tuple[str, bool | None], list[int]] = {}
        for index, sample in enumerate(samples):
            cells.setdefault((sample.group, sample.correct), []).append(index)
        shares = _shares({cell: len(indexes) for cell, indexes in cells.items()}, limit)
        chosen = sorted(index for cell, indexes in cells.items() for index in spread(indexes, shares[cell]))
        shown = {right: sum(shares[cell] for cell in cells if cell[1] is right) for right in _CLASSES}
        there = {right: sum(len(cells[cell]) for cell in cells if cell[1] is right) for right in _CLASSES}
        evenly = f", shared out among the {groups}" if len({group for group, _ in cells}) > 1 else ""
        wrong, right, undecided = (f"{shown[verdict]} of the {there[verdict]}" for verdict in _CLASSES)
        both = f"{wrong} wrong, {right} right and {undecided} not scored"
        listed = both if there[None] else f"{wrong} wrong and {right} right ones"
        rule = f"{len(chosen)} of {total} rows are shown: {listed}{evenly}, evenly spaced over the file."
        return [samples[index] for index in chosen], rule
    scores = [sample.score for sample in samples if sample.score is not None]
    if len(scores) == total:
        ranked = sorted(range(total), key=lambda index: scores[index][1])
        rule = f"{limit} of {total} rows are shown, evenly spaced from the lowest {scores[0][0]} to the highest."
        return [samples[index] for index in spread(ranked, limit)], rule
    rule = f"{limit} of {total} rows are shown, evenly spaced over the file."
    return [samples[index] for index in spread(list(range(total)), limit)], rule


def _worst_first(samples: list[Sample], rule: str) -> tuple[list[Sample], str]:
    """Sort rows by their score; those without one stand first where they are wrong, otherwise last."""

    def place(sample: Sample) -> float:
        return sample.score[1] if sample.score is not None else 0.0 if sample.correct is False else float("inf")

    name = next((sample.score[0] for sample in samples if sample.score is not None), "score")
    order = f"the lowest {name} first"
    told = rule.replace("in the order of the file", order)
    return sorted(samples, key=place), told if told != rule else f"{rule} They stand with {order}."


def _shares(sizes: dict[tuple[str, bool | None], int], limit: int) -> dict[tuple[str, bool | None], int]:
    """Deal out places one by one, wrong rows first and those not scored last, as long as a cell has rows."""
    shares = dict.fromkeys(sizes, 0)
    order = sorted(sizes, key=lambda cell: list(_CLASSES).index(cell[1]))
    while limit > 0 and (open_cells := [cell for cell in order if shares[cell] < sizes[cell]]):
        for cell in open_cells[:limit]:
            shares[cell] += 1
        limit -= len(open_cells)
    return shares


def mark_differences(reference: str, generated: str) -> tuple[Markup, Markup]:
    """Mark the words that two texts do not share.

    Words are compared without case and without punctuation at their edges.

    Args:
        reference: what was expected.
        generated: what was said.

    Returns:
        Both as HTML: words of the reference that were not said in ``<del>``, words that the reference does
        not have in ``<ins>``.
    """
    left, right = re.findall(r"\s*\S+", reference), re.findall(r"\s*\S+", generated)
    matcher = difflib.SequenceMatcher(None, _keys(left), _keys(right), autojunk=False)
    missing, extra = [], []
    for action, a, b, c, d in matcher.get_opcodes():
        shared = action == "equal"
        missing.append(_span("".join(left[a:b]), None if shared else "del"))
        extra.append(_span("".join(right[c:d]), None if shared else "ins"))
    return Markup().join(missing), Markup().join(extra)


def _keys(words: list[str]) -> list[str]:
    return [word.strip().lower().strip(string.punctuation) or word.strip() for word in words]


def _span(text: str, tag: str | None) -> Markup:
    words = text.lstrip()
    if not words or tag is None:
        return Markup.escape(text)
    return Markup("{}<{tag}>{}</{tag}>").format(text[: len(text) - len(words)], words, tag=tag)


def _group_numbers(samples: Sequence[Sample]) -> dict[str, int]:
    """Give each group a number from 1, by name; groups beyond the style sheet's colours share the last number."""
    names = sorted({sample.group for sample in samples}, key=lambda name: (not name, name.casefold()))
    return {name: min(number, MOST_GROUPS) for number, name in enumerate(names, start=1)}


def _group_names(numbers: dict[str, int]) -> list[str]:
    last = [name for name, number in numbers.items() if number == MOST_GROUPS]
    names = [name or "(none)" for name, number in numbers.items() if number < MOST_GROUPS]
    return names + ([(last[0] or "(none)") if len(last) == 1 else f"{len(last)} others"] if last else [])


def _empty_choices(samples: Sequence[Sample], numbers: dict[str, int]) -> list[str]:
    found = {(sample.correct, numbers[sample.group]) for sample in samples}
    undecided = any(sample.correct is None for sample in samples)
    return [
        f"none-{name}-{number}"
        for verdict, name in _CLASSES.items()
        if verdict is not None or undecided
        for number in sorted(set(numbers.values()))
        if (verdict, number) not in found
    ]


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " …"
