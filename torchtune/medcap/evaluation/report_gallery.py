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

from medcap.data.images import ImageReader, to_rgb
from medcap.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

THUMBNAIL_SIDE = 256
SAMPLE_LIMIT = 60
MOST_CHARACTERS = 2_000


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


def choose_samples(samples: Sequence[Sample], limit: int = SAMPLE_LIMIT) -> tuple[list[Sample], str]:
    """Pick what a page can hold, by a rule that does not flatter.

    Args:
        samples: all rows in the order of their file.
        limit: most rows to show.

    Returns:
        The chosen rows and the rule as a sentence: half wrong and half right, each evenly spaced over the file; for
        rows that have a score but no verdict, evenly spaced from the lowest to the highest score.
    """
    total = len(samples)
    if total <= limit:
        return list(samples), f"All {total} rows are shown, in the order of the file." if total > 1 else ""
    if any(sample.correct is not None for sample in samples):
        wrong = [index for index, sample in enumerate(samples) if not sample.correct]
        right = [index for index, sample in enumerate(samples) if sample.correct]
        num_wrong = min(len(wrong), max(limit // 2, limit - len(right)))
        num_right = min(len(right), limit - num_wrong)
        chosen = sorted(_spread(wrong, num_wrong) + _spread(right, num_right))
        rule = (
            f"{len(chosen)} of {total} rows are shown: {num_wrong} of the {len(wrong)} wrong and {num_right} of the"
            f" {len(right)} right ones, evenly spaced over the file."
        )
        return [samples[index] for index in chosen], rule
    if all(sample.score is not None for sample in samples):
        ranked = sorted(range(total), key=lambda index: samples[index].score[1])
        rule = f"{limit} of {total} rows are shown, evenly spaced from the lowest {samples[0].score[0]} to the highest."
        return [samples[index] for index in _spread(ranked, limit)], rule
    rule = f"{limit} of {total} rows are shown, evenly spaced over the file."
    return [samples[index] for index in _spread(list(range(total)), limit)], rule


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


def gallery(samples: Sequence[Sample], identity: str, reader: ImageReader | None = None) -> str:
    """Draw samples as cards, with a filter (no script) where they are right or wrong.

    Args:
        samples: what to show.
        identity: of the filter's controls; unique in the page.
        reader: opens images.

    Returns:
        HTML.
    """
    cache: dict[str, str] = {}
    cards = "".join(_card(sample, reader, cache) for sample in samples)
    grid = f'<div class="samples">{cards}</div>'
    if not any(sample.correct is not None for sample in samples):
        return grid
    wrong = sum(not sample.correct for sample in samples)
    choices = (("all", f"All {len(samples)}"), ("no", f"✗ Wrong {wrong}"), ("yes", f"✓ Right {len(samples) - wrong}"))
    controls = "".join(
        f'<input type="radio" name="{identity}" id="{identity}-{key}" class="show-{key}"{" checked" * (key == "all")}>'
        f'<label for="{identity}-{key}">{label}</label>'
        for key, label in choices
    )
    return f'<div class="filter">{controls}{grid}</div>'


def _card(sample: Sample, reader: ImageReader | None, cache: dict[str, str]) -> str:
    reference = sample.references[0] if sample.references else ""
    expected, said = mark_differences(_shortened(reference), _shortened(sample.generated.strip()))
    if len(sample.references) > 1:
        expected += f' <span class="more">or {escape(" / ".join(map(_shortened, sample.references[1:])))}</span>'
    if not sample.generated.strip():
        said = f'<span class="none">no answer{": " + escape(sample.problem) if sample.problem else ""}</span>'
    verdict = {None: "", True: "yes", False: "no"}[sample.correct]
    question = f'<p class="question">{escape(_shortened(sample.question))}</p>' if sample.question else ""
    return (
        f'<article class="sample {verdict}">{_picture(sample, reader, cache)}<div class="words">'
        f"{_headline(sample)}{question}"
        f"<dl><dt>Reference</dt><dd>{expected}</dd><dt>Generated</dt><dd>{said}</dd></dl></div></article>"
    )


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
