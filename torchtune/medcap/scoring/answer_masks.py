"""The masks of a row in a file of answers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medcap.data.regions.draw import as_run_length
from medcap.data.regions.region import Region, is_absent, label_from_json, region_from_json, regions_as_json
from medcap.datasets.published.fields import field_text
from medcap.errors import UserError

if TYPE_CHECKING:
    from medcap.data.images.reader import ImageReader

MASK_KEYS = ("masks", "prediction_mask")
REFERENCE_MASK_KEYS = ("reference_masks", "reference_mask")
_LABEL_KEYS = ("label", "class", "phrase")


@dataclass(frozen=True)
class RowMasks:
    """Masks of a row; files are read into run-lengths.

    Attributes:
        wanted: as ``Question.masks`` has them.
        labels: as ``Question.mask_labels`` has them.
        given: as ``Outputs.masks`` has them.
        bad: as ``Answer.bad_masks`` has them.
        problem: why the masks of the reference cannot be read; None where they can.
    """

    wanted: tuple[Region | None, ...] | None = None
    labels: tuple[str, ...] = ()
    given: tuple[Region | None, ...] | None = None
    bad: tuple[tuple[int, str], ...] = ()
    problem: str | None = None


def row_masks(row: Mapping[str, Any], reader: Callable[[], ImageReader]) -> RowMasks:
    """Read the masks of a row.

    A bad mask is told here and never raised: its row stays in every denominator.

    Args:
        row: ``masks`` and ``reference_masks`` are lists of regions, ``prediction_mask`` and ``reference_mask`` one mask
            file or run-length each. A null reference is an absent object, a null prediction is none.
        reader: makes what finds and opens mask files; called for rows with masks only.

    Returns:
        The masks; nothing of a row without any of these keys.
    """
    wanted = _entries(row, *REFERENCE_MASK_KEYS)
    given = _entries(row, *MASK_KEYS)
    given = None if given == [None] and _missing(row.get("masks")) else given
    found, bad = (None, ()) if given is None else good_masks(given, reader)
    if wanted is None:
        return RowMasks(given=found, bad=bad)
    row_label = next(filter(None, (field_text(row.get(key)) for key in _LABEL_KEYS)), "")
    try:
        if not isinstance(wanted, list):
            raise UserError(f"'reference_masks' must be a list of regions, not {type(wanted).__name__}")
        regions = tuple(_reference(entry, reader) for entry in wanted)
    except UserError as error:
        return RowMasks((None,), (row_label,), found, bad, str(error))
    return RowMasks(regions, tuple(label_from_json(entry) or row_label for entry in wanted), found, bad)


def good_masks(
    value: Any, reader: Callable[[], ImageReader | None] = lambda: None
) -> tuple[tuple[Region | None, ...], tuple[tuple[int, str], ...]]:
    """Read the field ``masks`` of an answer, in which one bad mask must not lose the others.

    Args:
        value: what the row holds.
        reader: makes what finds and opens mask files; by default there are none.

    Returns:
        As ``Outputs.masks`` and ``Answer.bad_masks`` have them.
    """
    if not isinstance(value, list):
        return (None,), ((0, f"'masks' must be a list of regions, not {type(value).__name__}"),)
    found: list[Region | None] = []
    bad = []
    for place, entry in enumerate(value):
        region = None
        try:
            if not is_absent(entry):
                region = region_from_json(entry, "masks")
                region = as_run_length(region, reader())
        except UserError as error:
            bad.append((place, str(error)))
        found.append(region)
    return tuple(found), tuple(bad)


def masks_as_json(masks: Sequence[Region | None], labels: Sequence[str] = ()) -> list[Any]:
    """Return masks as a row of answers holds them.

    Args:
        masks: None for an absent object.
        labels: as ``Question.mask_labels`` has them.
    """
    rows: list[Any] = regions_as_json(masks)
    for place, label in enumerate(labels):
        if label:
            rows[place] = (rows[place] or {"mask": None}) | {"label": label}
    return rows


def _entries(row: Mapping[str, Any], several: str, one: str) -> Any:
    """Return the field with a list of masks, or the single mask in a list; None where the row has neither."""
    if not _missing(row.get(several)):
        return row[several]
    if one in row:
        return [None if _missing(row[one]) else row[one]]
    return None


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _reference(entry: Any, reader: Callable[[], ImageReader]) -> Region | None:
    return None if is_absent(entry) else as_run_length(region_from_json(entry, "reference_masks"), reader())
