"""The picture part of a report: samples with reference and answer side by side."""

from __future__ import annotations

import base64
import difflib
import io
import re
import string
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from medcap.data.images import ImageReader
from medcap.data.raster import to_rgb
from medcap.errors import UserError
from medcap.evaluation.report.style import MOST_GROUPS

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL_SIDE = 256
SAMPLE_LIMIT = 60
MOST_CHARACTERS = 2_000
OPTIONS_LEGEND = "Of the options, the right one has a tick and the chosen one a frame."


@dataclass(frozen=True)
class Sample:
    """One row of a gallery.

    Attributes:
        generated: what the model said; "" is shown as a failure.
        references: what was expected; the first is compared word by word.
        image: path or picture; None for a question without one.
        question: what was asked; "" hides the line.
        correct: True right, False wrong, None where there is no such verdict.
        score: name and value of the row's score.
        name: how the row is called.
        tags: short facts, such as the modality.
        problem: why there is no answer or picture.
        group: what the page's second filter goes by, such as the modality; "" for none.
        options: of a multiple-choice question; they are listed with the right and the chosen one marked.
        chosen: the option that ``generated`` was taken for; None for that which it equals, if any.
    """

    generated: str
    references: Sequence[str]
    image: str | Path | Image.Image | None = None
    question: str = ""
    correct: bool | None = None
    score: tuple[str, float] | None = None
    name: str = ""
    tags: Sequence[str] = field(default_factory=tuple)
    problem: str | None = None
    group: str = ""
    options: Sequence[str] = field(default_factory=tuple)
    chosen: str | None = None


def choose_samples(
    samples: Sequence[Sample], limit: int = SAMPLE_LIMIT, groups: str = "modalities"
) -> tuple[list[Sample], str]:
    """Pick what a page can hold, by a rule that does not flatter.

    Args:
        samples: all rows in the order of their file.
        limit: most rows to show.
        groups: what the samples' ``group`` names, in the plural, for the sentence.

    Returns:
        The chosen rows in the order of the file, and the rule as a sentence. Of rows with a verdict, as many wrong as
        right ones and as many of each group as there are, each evenly spaced over the file; of rows that have a score
        but no verdict, evenly spaced from the lowest to the highest score.
    """
    total = len(samples)
    if total <= limit:
        return list(samples), f"All {total} rows are shown, in the order of the file." if total > 1 else ""
    if any(sample.correct is not None for sample in samples):
        cells: dict[tuple[str, bool], list[int]] = {}
        for index, sample in enumerate(samples):
            cells.setdefault((sample.group, bool(sample.correct)), []).append(index)
        shares = _shares({cell: len(indexes) for cell, indexes in cells.items()}, limit)
        chosen = sorted(index for cell, indexes in cells.items() for index in _spread(indexes, shares[cell]))
        shown = {right: sum(shares[cell] for cell in cells if cell[1] is right) for right in (False, True)}
        there = {right: sum(len(cells[cell]) for cell in cells if cell[1] is right) for right in (False, True)}
        evenly = f", shared out among the {groups}" if len({group for group, _ in cells}) > 1 else ""
        rule = (
            f"{len(chosen)} of {total} rows are shown: {shown[False]} of the {there[False]} wrong and {shown[True]} of"
            f" the {there[True]} right ones{evenly}, evenly spaced over the file."
        )
        return [samples[index] for index in chosen], rule
    if all(sample.score is not None for sample in samples):
        ranked = sorted(range(total), key=lambda index: samples[index].score[1])
        rule = f"{limit} of {total} rows are shown, evenly spaced from the lowest {samples[0].score[0]} to the highest."
        return [samples[index] for index in _spread(ranked, limit)], rule
    rule = f"{limit} of {total} rows are shown, evenly spaced over the file."
    return [samples[index] for index in _spread(list(range(total)), limit)], rule


def _shares(sizes: dict[tuple[str, bool], int], limit: int) -> dict[tuple[str, bool], int]:
    """Deal out places one by one, wrong rows first, as long as a cell has rows."""
    shares = dict.fromkeys(sizes, 0)
    order = sorted(sizes, key=lambda cell: cell[1])
    while limit > 0 and (open_cells := [cell for cell in order if shares[cell] < sizes[cell]]):
        for cell in open_cells[:limit]:
            shares[cell] += 1
        limit -= len(open_cells)
    return shares


def _spread(values: list[int], count: int) -> list[int]:
    if count <= 1:
        return values[:count]
    return [values[round(place * (len(values) - 1) / (count - 1))] for place in range(count)]


def mark_differences(reference: str, generated: str) -> tuple[str, str]:
    """Show which words two texts do not share.

    Words are compared without case and without punctuation at their edges.

    Args:
        reference: what was expected.
        generated: what was said.

    Returns:
        Both as escaped HTML: words of the reference that were not said in ``<del>``, words that the reference does
        not have in ``<ins>``.
    """
    left, right = re.findall(r"\s*\S+", reference), re.findall(r"\s*\S+", generated)
    matcher = difflib.SequenceMatcher(None, _keys(left), _keys(right), autojunk=False)
    missing, extra = [], []
    for action, a, b, c, d in matcher.get_opcodes():
        shared = action == "equal"
        missing.append(_span("".join(left[a:b]), None if shared else "del"))
        extra.append(_span("".join(right[c:d]), None if shared else "ins"))
    return "".join(missing), "".join(extra)


def _keys(words: list[str]) -> list[str]:
    return [word.strip().lower().strip(string.punctuation) or word.strip() for word in words]


def _span(text: str, tag: str | None) -> str:
    if not text or tag is None:
        return escape(text)
    stripped = text.lstrip()
    return f"{escape(text[: len(text) - len(stripped)])}<{tag}>{escape(stripped)}</{tag}>"


def thumbnail(image: str | Path | Image.Image, reader: ImageReader | None = None) -> str:
    """A small picture that stands in the page itself.

    Args:
        image: path or picture of any mode.
        reader: resolves and opens paths; None opens only a file that lies where the path says.

    Returns:
        A ``data:`` address of a JPEG, longest side at most 256 pixels.

    Raises:
        UserError: if the image is missing or damaged.
    """
    if isinstance(image, (str, Path)):
        reader = reader or ImageReader([Path(image).parent])
        small = reader.open(reader.resolve(image))
    else:
        small = to_rgb(image).copy()
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=82, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def gallery(
    samples: Sequence[Sample], identity: str, reader: ImageReader | None = None, groups: str = "modalities"
) -> str:
    """Draw samples as cards, with filters (no script) by verdict and by group where there is more than one.

    Args:
        samples: what to show.
        identity: of the filters' controls; unique in the page.
        reader: opens images.
        groups: what the samples' ``group`` names, in the plural.

    Returns:
        HTML.
    """
    cache: dict[str, str] = {}
    places = _group_places(samples)
    cards = "".join(_card(sample, reader, cache, places.get(sample.group)) for sample in samples)
    grid = f'<div class="samples">{cards}</div>'
    verdicts, by_group, empty = "", "", ""
    if any(sample.correct is not None for sample in samples):
        wrong = sum(not sample.correct for sample in samples)
        choices = [
            ("all", f"All {len(samples)}"),
            ("no", f"✗ Wrong {wrong}"),
            ("yes", f"✓ Right {len(samples) - wrong}"),
        ]
        verdicts = _controls(f"{identity}v", [(f"show-{key}", escape(label)) for key, label in choices])
    if len(set(places.values())) > 1:
        names = [f"All {groups}", *_group_names(places)]
        choices = [(f"in-{place}", escape(name)) for place, name in enumerate(names)]
        by_group = _controls(f"{identity}g", choices)
        empty = _empty_places(samples, places)
    if not verdicts and not by_group:
        return grid
    # Each filter must stand before the cards and beside them: that is how its choice reaches them.
    return f'<div class="filter">{verdicts}{"<br>" if verdicts and by_group else ""}{by_group}{empty}{grid}</div>'


def _controls(identity: str, choices: list[tuple[str, str]]) -> str:
    return "".join(
        f'<input type="radio" name="{identity}" id="{identity}-{name}" class="{name}"{" checked" * (place == 0)}>'
        f'<label for="{identity}-{name}">{label}</label>'
        for place, (name, label) in enumerate(choices)
    )


def _group_places(samples: Sequence[Sample]) -> dict[str, int]:
    """Group -> number from 1, in the order of their names; those beyond the style sheet's share the last one."""
    names = sorted({sample.group for sample in samples}, key=lambda name: (not name, name.casefold()))
    return {name: min(place, MOST_GROUPS) for place, name in enumerate(names, start=1)}


def _group_names(places: dict[str, int]) -> list[str]:
    last = [name for name, place in places.items() if place == MOST_GROUPS]
    names = [name or "(none)" for name, place in places.items() if place < MOST_GROUPS]
    return names + ([(last[0] or "(none)") if len(last) == 1 else f"{len(last)} others"] if last else [])


def _empty_places(samples: Sequence[Sample], places: dict[str, int]) -> str:
    there = {(bool(sample.correct), places[sample.group]) for sample in samples if sample.correct is not None}
    if not there:
        return ""
    missing = [
        (verdict, place)
        for verdict in (False, True)
        for place in sorted(set(places.values()))
        if (verdict, place) not in there
    ]
    return "".join(
        f'<p class="empty none-{"yes" if verdict else "no"}-{place}">Among the rows shown there is none.</p>'
        for verdict, place in missing
    )


def _card(sample: Sample, reader: ImageReader | None, cache: dict[str, str], place: int | None) -> str:
    verdict = {None: "", True: " yes", False: " no"}[sample.correct]
    group = f" group-{place}" if place else ""
    question = f'<p class="question">{escape(_shortened(sample.question))}</p>' if sample.question else ""
    answer = _options(sample) if sample.options else _answer(sample)
    return (
        f'<article class="sample{verdict}{group}">{_picture(sample, reader, cache)}<div class="words">'
        f"{_headline(sample)}{question}{answer}</div></article>"
    )


def _answer(sample: Sample) -> str:
    reference = sample.references[0] if sample.references else ""
    expected, said = mark_differences(_shortened(reference), _shortened(sample.generated.strip()))
    if len(sample.references) > 1:
        expected += f' <span class="more">or {escape(" / ".join(map(_shortened, sample.references[1:])))}</span>'
    if not sample.generated.strip():
        said = _no_answer(sample)
    return f"<dl><dt>Reference</dt><dd>{expected}</dd><dt>Generated</dt><dd>{said}</dd></dl>"


def _options(sample: Sample) -> str:
    right = {_plain(reference) for reference in sample.references}
    said = _plain(sample.generated)
    chosen = _plain(sample.chosen) if sample.chosen is not None else said
    items, matched = [], False
    for option in sample.options:
        is_right, is_chosen = _plain(option) in right, bool(chosen) and _plain(option) == chosen
        matched = matched or is_chosen
        kind = " ".join(name for name, holds in (("right", is_right), ("chosen", is_chosen)) if holds)
        words = {"right": "right answer", "chosen": "chosen", "right chosen": "chosen, right"}.get(kind, "")
        mark = "✓" if is_right else "✗" if is_chosen else ""
        note = f' <span class="mark">{words}</span>' if words else ""
        items.append(f'<li class="{kind}"><span class="sign">{mark}</span>{escape(_shortened(option))}{note}</li>')
    text = ""
    if not said:
        text = f'<p class="said">{_no_answer(sample)}</p>'
    elif not matched or said != chosen:
        taken = "" if matched else ' <span class="none">(none of the options)</span>'
        text = f'<p class="said"><span>Generated</span> {escape(_shortened(sample.generated.strip()))}{taken}</p>'
    return f'<ol class="options">{"".join(items)}</ol>{text}'


def _no_answer(sample: Sample) -> str:
    return f'<span class="none">no answer{": " + escape(sample.problem) if sample.problem else ""}</span>'


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).rstrip(".")


def _headline(sample: Sample) -> str:
    parts = []
    if sample.correct is not None:
        mark, word = ("✓", "right") if sample.correct else ("✗", "wrong")
        parts.append(f'<span class="verdict">{mark} {word}</span>')
    if sample.score is not None:
        parts.append(f'<span class="tag">{escape(sample.score[0])} {sample.score[1]:.2f}</span>')
    facts = " · ".join(escape(fact) for fact in (*sample.tags, sample.name) if fact)
    if facts:
        parts.append(f'<span class="facts-line">{facts}</span>')
    return f'<p class="head">{"".join(parts)}</p>' if parts else ""


def _picture(sample: Sample, reader: ImageReader | None, cache: dict[str, str]) -> str:
    if sample.image is None:
        reason = "image missing" if sample.problem else "no image"
        return f'<div class="picture missing"><span>{reason}</span></div>'
    key = str(sample.image) if isinstance(sample.image, (str, Path)) else f"picture {id(sample.image)}"
    if key not in cache:
        try:
            cache[key] = f'<img src="{thumbnail(sample.image, reader)}" alt="" loading="lazy">'
        except (UserError, OSError, ValueError) as error:
            cache[key] = f'<span title="{escape(str(error))}">image cannot be shown</span>'
    missing = "" if cache[key].startswith("<img") else " missing"
    return f'<div class="picture{missing}">{cache[key]}</div>'


def _shortened(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " …"
