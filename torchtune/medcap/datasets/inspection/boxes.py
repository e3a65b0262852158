"""The boxes of a data file, as ``medcap validate`` and ``medcap stats`` report them."""

from __future__ import annotations

import contextlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medcap.data.boxes.box import AbsentBox, Size, listed_boxes, named_boxes_from_json, pixels_of
from medcap.data.boxes.frame import clip
from medcap.data.boxes.notations import BoxText, find_box_texts, find_look_alikes
from medcap.data.images.reference import ImageRef
from medcap.data.row_layouts import Record
from medcap.errors import UserError
from medcap.plurals import counted

# Where the boxes of a row may stand besides its texts.
FIELD = "boxes"
# Of a box: within its image, cut by its edges, nothing of it there, larger numbers than its notation can hold, and
# what only looks like one.
INSIDE, CUT, LOST, EXCESS, MALFORMED = "inside", "cut", "lost", "excess", "malformed"
_WORDS = {
    CUT: ("reaches beyond its image and is cut there", "reach beyond their image and are cut there"),
    LOST: ("is outside its image or has no area", "are outside their image or have no area"),
    EXCESS: ("holds numbers larger than its notation can", "hold numbers larger than their notation can"),
    MALFORMED: (
        "looks like a box but is not in a notation that is read; pixels in brackets belong under 'boxes'",
        "look like boxes but are not in a notation that is read; pixels in brackets belong under 'boxes'",
    ),
}
_SMALL = 700  # pixels; on such an image, thousandths soon exceed its sides
_ENOUGH = 20  # boxes


@dataclass(frozen=True)
class BoxFacts:
    """What is known of a box.

    Attributes:
        notation: one of ``NOTATIONS``, or ``boxes`` for one under this key.
        state: ``inside``, ``cut``, ``lost``, ``excess`` or ``malformed``.
        words: as it is written.
        area: share of the image; 0 where it is not known.
        like_pixels: whether thousandths on a small image could be pixels of it; None where this says nothing.
    """

    notation: str
    state: str
    words: str
    area: float = 0.0
    like_pixels: bool | None = None


def boxes_of_row(
    row: Any, record: Record, notation: str | None, size_of: Callable[[ImageRef], Size]
) -> tuple[BoxFacts, ...]:
    """Look at the boxes of a row, those in its texts and those under ``boxes``.

    Args:
        row: the decoded JSON value.
        record: what was read of it, its images expanded.
        notation: notation of its texts; None tells them apart.
        size_of: image -> its width and height in pixels; called for images with boxes only.

    Returns:
        A fact for each box; none for a row whose images cannot be read.
    """
    with contextlib.suppress(UserError):
        return tuple(_in_field(row, record, size_of)) + tuple(_in_texts(row, record, notation, size_of))
    return ()


def _in_field(row: Any, record: Record, size_of: Callable[[ImageRef], Size]) -> Iterator[BoxFacts]:
    given = row.get(FIELD) if isinstance(row, Mapping) else None
    for entry in listed_boxes(given, FIELD) if isinstance(given, list) else []:
        words = str(entry.get("box") if isinstance(entry, Mapping) else entry)[:80]
        try:
            (box,) = named_boxes_from_json([entry], None)
        except UserError:
            yield BoxFacts(FIELD, MALFORMED, words)
            continue
        if box.image >= len(record.images):
            yield BoxFacts(FIELD, LOST, words)
            continue
        if isinstance(box, AbsentBox):
            continue
        width, height = _unit(row, record, size_of(record.images[box.image]))
        left, top, right, bottom = box.edges
        yield _judged(FIELD, words, (left / width, top / height, right / width, bottom / height))


def _unit(row: Any, record: Record, size: Size) -> Size:
    """Return the width and height that the row's pixels count, as :func:`place_boxes` takes them."""
    return pixels_of(row.get("image_size"), size) if isinstance(row, Mapping) and len(record.images) == 1 else size


def _in_texts(
    row: Any, record: Record, notation: str | None, size_of: Callable[[ImageRef], Size]
) -> Iterator[BoxFacts]:
    images, shown = record.images, 0
    for message in record.messages:
        for part in message.content:
            if part["type"] == "image":
                shown += 1
                continue
            text = part["content"]
            for words in find_look_alikes(text, notation) if images else []:
                yield BoxFacts("", MALFORMED, words[:80])
            for found in find_box_texts(text, notation) if images else []:
                words = text[found.start : found.end][:80]
                if found.excess is not None:
                    yield BoxFacts(found.notation, EXCESS, words)
                    continue
                size = size_of(images[max(shown, 1) - 1])
                unit = _unit(row, record, size) if found.notation == "coloninst" else size
                yield _judged(found.notation, words, found.edges(unit), _like_pixels(found, size))


def _judged(
    notation: str, words: str, edges: tuple[float, float, float, float], like_pixels: bool | None = None
) -> BoxFacts:
    kept = clip(edges)
    if kept is None:
        return BoxFacts(notation, LOST, words)
    area = (kept[2] - kept[0]) * (kept[3] - kept[1])
    # What was rounded may lie a little outside.
    inside = all(abs(a - b) < 1e-6 for a, b in zip(kept, edges, strict=True))
    return BoxFacts(notation, INSIDE if inside else CUT, words, area, like_pixels)


def _like_pixels(found: BoxText, size: Size) -> bool | None:
    if found.notation not in ("thousandths", "qwen") or max(size) > _SMALL:
        return None
    return found.numbers[2] <= size[0] and found.numbers[3] <= size[1]


@dataclass
class BoxTally:
    """Boxes of a file, counted row by row.

    Attributes:
        notations: boxes of each notation.
        states: boxes of each state.
        examples: state -> the first row with such a box, and the box as it is written.
    """

    notations: Counter[str] = field(default_factory=Counter)
    states: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)
    _rows: int = 0
    _most: int = 0
    _areas: array[float] = field(default_factory=lambda: array("f"))
    _like_pixels: Counter[bool] = field(default_factory=Counter)

    def add(self, row: int, boxes: tuple[BoxFacts, ...]) -> None:
        """Count the boxes of a row."""
        if not boxes:
            return
        self._rows += 1
        self._most = max(self._most, len(boxes))
        for box in boxes:
            self.states[box.state] += 1
            self.examples.setdefault(box.state, (row, box.words))
            if box.state != MALFORMED:
                self.notations[box.notation] += 1
            if box.area:
                self._areas.append(box.area)
            if box.like_pixels is not None:
                self._like_pixels[box.like_pixels] += 1

    def as_dict(self) -> dict[str, Any] | None:
        """Return the counts as JSON holds them; None of a file without boxes.

        Returns:
            ``rows`` with boxes, ``boxes``, ``notations`` and ``states`` with their counts, ``most_a_row``,
            ``area_percent`` of the image (min, median, max), ``examples``, and ``like_pixels``: whether thousandths
            are probably pixels.
        """
        if not self._rows:
            return None
        areas = np.frombuffer(self._areas, dtype=np.float32) * 100
        return {
            "rows": self._rows,
            "boxes": self.notations.total(),
            "notations": dict(self.notations.most_common()),
            "states": {state: self.states[state] for state in (INSIDE, *_WORDS) if self.states[state]},
            "most_a_row": self._most,
            "area_percent": dict(zip(("min", "median", "max"), np.quantile(areas, (0, 0.5, 1)).tolist(), strict=True))
            if len(areas)
            else None,
            "examples": {state: {"row": row, "box": words} for state, (row, words) in self.examples.items()},
            "like_pixels": not self._like_pixels[False] and self._like_pixels[True] >= _ENOUGH,
        }


def box_lines(found: Mapping[str, Any] | None) -> list[str]:
    """Return what a terminal shows of :meth:`BoxTally.as_dict`."""
    if found is None:
        return []
    kinds = ", ".join(
        f"{count:,} {'under boxes' if name == FIELD else f'as {name}'}" for name, count in found["notations"].items()
    )
    most = f"at most {found['most_a_row']:,} in one ({kinds or 'none'})"
    lines = [f"boxes: {found['boxes']:,} in {counted(found['rows'], 'row')}, {most}"]
    if found["area_percent"] is not None:
        areas = ", ".join(f"{name} {value:.2f}" for name, value in found["area_percent"].items())
        lines.append(f"  area in % of the image: {areas}")
    for state, words in _WORDS.items():
        if count := found["states"].get(state):
            example = found["examples"][state]
            lines.append(f"  {counted(count, *words)} (first in row {example['row']}: {example['box']})")
    texts = [name for name in found["notations"] if name != FIELD]
    if len(texts) > 1:
        lines.append("  the texts hold several notations: name the right one by --box-format or dataset.box_format")
    if found["like_pixels"]:
        lines.append(
            "  no number exceeds the sides of the images, which are small: these may be pixels and not thousandths;"
            " then write them under 'boxes'"
        )
    return lines
