"""The masks and regions of a data file, as ``medcap validate`` and ``medcap stats`` report them."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medcap.data.boxes.box import Size
from medcap.data.images.reader import ImageReader
from medcap.data.regions.draw import draw_region, has_several_values, read_mask
from medcap.data.regions.region import MaskFile, Region, RunLength, label_from_json, regions_from_json
from medcap.data.row_layouts import Record
from medcap.data.row_masks import FIELD, MASK_WORD
from medcap.data.row_regions import FIELD as REGIONS_FIELD
from medcap.data.row_regions import regions_of
from medcap.errors import UserError
from medcap.plurals import counted

# Of a mask: good; of an absent object; named by no <SEG>; a file with several values; without a pixel; of another size
# than its image; one that cannot be read.
GOOD, ABSENT, UNNAMED, VALUES = "good", "absent", "unnamed", "values"
EMPTY, SIZE, UNREADABLE = "empty", "size", "unreadable"
_BAD = (EMPTY, SIZE, UNREADABLE)
_WORDS = {
    UNNAMED: (
        f"is named by no {MASK_WORD}: training does not show it",
        f"are named by no {MASK_WORD}: training does not show them",
    ),
    VALUES: (
        "is a file with several values, all of which are inside: name one by 'value' where they are classes",
        "are files with several values, all of which are inside: name one by 'value' where they are classes",
    ),
    EMPTY: ("holds no pixel of its image", "hold no pixel of their image"),
    SIZE: ("has another size than its image", "have another size than their image"),
    UNREADABLE: ("cannot be read", "cannot be read"),
}
_MOST_LABELS = 20


@dataclass(frozen=True)
class MaskFacts:
    """What is known of a mask, or of a region, which is drawn as a mask.

    Attributes:
        state: ``good``, ``absent``, ``unnamed``, ``values``, ``empty``, ``size`` or ``unreadable``.
        words: how it is called.
        label: what it shows, as far as the row says so.
        area: share of the image.
        reason: why it cannot be used; "" where it can.
    """

    state: str
    words: str
    label: str = ""
    area: float = 0.0
    reason: str = ""


def masks_of_row(row: Any, record: Record, reader: ImageReader) -> tuple[MaskFacts, ...]:
    """Look at the masks of a row.

    Args:
        row: the decoded JSON value.
        record: what was read of it, its masks placed.
        reader: opens images and mask files.

    Returns:
        A fact for each mask.

    Raises:
        UserError: if an answer has a ``<SEG>`` without a mask, or an image cannot be read.
    """
    given = row.get(FIELD) if isinstance(row, Mapping) else None
    if record.masks:
        labels = [label_from_json(entry) for entry in given or ()]
        labels = labels or [region.label if region else "" for region in record.masks]
        pairs = zip(record.masks, labels, strict=True)
        return tuple(_judged(region, label, record, reader) for region, label in pairs)
    answers = [message for message in record.messages if message.role == "assistant"]
    if words := sum(message.text_content.count(MASK_WORD) for message in answers):
        raise UserError(f"{words} {MASK_WORD} in its answers but no '{FIELD}': give each word its mask")
    unnamed = regions_from_json(given, FIELD, absent=True) if isinstance(given, list) else ()
    return tuple(
        MaskFacts(ABSENT if region is None else UNNAMED, _called(region), label_from_json(entry))
        for region, entry in zip(unnamed, given or (), strict=True)
    )


def regions_of_row(record: Record, reader: ImageReader) -> tuple[MaskFacts, ...]:
    """Look at the regions of a row's questions.

    Args:
        record: what was read of it, its regions placed.
        reader: opens images and mask files.

    Returns:
        A fact for each region.

    Raises:
        UserError: if an image cannot be read.
    """
    return tuple(_judged(region, region.label, record, reader) for region in regions_of(record.messages))


def first_problem(masks: tuple[MaskFacts, ...]) -> str | None:
    """Return why a row cannot be used for its masks or regions; None where it can."""
    return next((mask.reason for mask in masks if mask.state in _BAD), None)


def _judged(region: Region | None, label: str, record: Record, reader: ImageReader) -> MaskFacts:
    if region is None:
        return MaskFacts(ABSENT, _called(region), label)
    size = reader.shown_size(record.images[region.image])
    words = _called(region)
    try:
        mask = draw_region(region, size, reader)
    except UserError as error:
        return MaskFacts(_state_of_bad(region, size, reader), words, label, reason=str(error))
    return MaskFacts(VALUES if _is_mixed(region, reader) else GOOD, words, label, float(mask.mean()))


def _state_of_bad(region: Region, size: Size, reader: ImageReader) -> str:
    if not isinstance(region.shape, MaskFile | RunLength):
        return EMPTY
    try:
        mask = read_mask(region.shape, reader)
    except UserError:
        return UNREADABLE
    return EMPTY if mask.shape == (size[1], size[0]) else SIZE


def _is_mixed(region: Region, reader: ImageReader) -> bool:
    return isinstance(region.shape, MaskFile) and has_several_values(region.shape, reader)


def _called(region: Region | None) -> str:
    match region.shape if region else None:
        case MaskFile(path=path):
            return path
        case RunLength(size=size):
            return f"a run-length of {size[1]} x {size[0]}"
        case None:
            return "null"
        case shape:
            return f"a {type(shape).__name__.removesuffix('Shape').lower()}"


@dataclass
class MaskTally:
    """Masks or regions of a file, counted row by row.

    Attributes:
        name: ``masks`` or ``regions``.
        states: masks of each state.
        labels: masks of each label.
        examples: state -> the first row with such a mask, and how it is called.
    """

    name: str = FIELD
    states: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, str]] = field(default_factory=dict)
    _rows: int = 0
    _most: int = 0
    _areas: array[float] = field(default_factory=lambda: array("f"))

    def add(self, row: int, masks: tuple[MaskFacts, ...]) -> None:
        """Count the masks of a row."""
        if not masks:
            return
        self._rows += 1
        self._most = max(self._most, len(masks))
        for mask in masks:
            self.states[mask.state] += 1
            self.examples.setdefault(mask.state, (row, f"{mask.words}{f' ({mask.label})' if mask.label else ''}"))
            if mask.label:
                self.labels[mask.label] += 1
            if mask.area:
                self._areas.append(mask.area)

    def as_dict(self) -> dict[str, Any] | None:
        """Return the counts as JSON holds them; None of a file without masks.

        Returns:
            ``rows`` with masks, ``masks`` (or ``regions``), ``states`` with their counts, ``most_a_row``,
            ``area_percent`` of the image (min, median, max), ``labels`` with the counts of the most frequent,
            ``num_labels``, and ``examples``.
        """
        if not self._rows:
            return None
        areas = np.frombuffer(self._areas, dtype=np.float32) * 100
        return {
            "rows": self._rows,
            self.name: self.states.total(),
            "states": {state: self.states[state] for state in (GOOD, ABSENT, *_WORDS) if self.states[state]},
            "most_a_row": self._most,
            "area_percent": dict(zip(("min", "median", "max"), np.quantile(areas, (0, 0.5, 1)).tolist(), strict=True))
            if len(areas)
            else None,
            "num_labels": len(self.labels),
            "labels": dict(self.labels.most_common(_MOST_LABELS)),
            "examples": {
                state: {"row": row, self.name.removesuffix("s"): words} for state, (row, words) in self.examples.items()
            },
        }


def region_lines(found: Mapping[str, Any] | None) -> list[str]:
    """Return what a terminal shows of the regions' :meth:`MaskTally.as_dict`."""
    return mask_lines(found, REGIONS_FIELD)


def mask_lines(found: Mapping[str, Any] | None, name: str = FIELD) -> list[str]:
    """Return what a terminal shows of :meth:`MaskTally.as_dict`.

    Args:
        found: the counts; None for none.
        name: ``masks`` or ``regions``.
    """
    if found is None:
        return []
    absent = found["states"].get(ABSENT, 0)
    lines = [
        f"{name}: {found[name]:,} in {counted(found['rows'], 'row')}, at most {found['most_a_row']:,} in one"
        f"{f'; {absent:,} of them of absent objects' if absent else ''}"
    ]
    if found["area_percent"] is not None:
        areas = ", ".join(f"{name} {value:.2f}" for name, value in found["area_percent"].items())
        lines.append(f"  area in % of the image: {areas}")
    if found["labels"]:
        labels = ", ".join(f"{name} {count:,}" for name, count in found["labels"].items())
        more = found["num_labels"] - len(found["labels"])
        lines.append(f"  labels: {labels}{f' and {more:,} more' if more else ''}")
    for state, words in _WORDS.items():
        if count := found["states"].get(state):
            example = found["examples"][state]
            lines.append(
                f"  {counted(count, *words)} (first in row {example['row']}: {example[name.removesuffix('s')]})"
            )
    return lines
