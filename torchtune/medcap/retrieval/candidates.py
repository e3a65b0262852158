"""The images with masks that rows hold: what an index is made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medcap.data.images.reader import ImageReader
from medcap.data.images.row_entry import VIEW_KEYS, image_entry
from medcap.data.row_examples import flat_pairs, masks_in_turns, read_example_row
from medcap.data.row_layouts import CONVERSATION_KEYS, folder_of
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError


@dataclass(frozen=True)
class Candidate:
    """An image with a mask.

    Attributes:
        image: path of the image, links followed.
        mask: path of its mask file, or a mask as a row holds it.
        patient: whose image it is; None where the row does not say it.
        kept: other keys of the row that were asked for.
    """

    image: Path
    mask: str | dict[str, Any]
    patient: str | None = None
    kept: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """Something that could not be used.

    Attributes:
        name: the row, or the image.
        reason: reason in words.
    """

    name: str
    reason: str


def read_candidates(
    source: Path, reader: ImageReader, patient_key: str, keep: Sequence[str] = ()
) -> tuple[list[Candidate], list[Failure]]:
    """Read the images with masks of a file; none of them is opened.

    Of each row they are the query image with each of its masks (``target_mask``, ``mask``, ``masks``, or MedPLIB's
    ``<mask>`` in the turns), and the examples that it may have, as MedPLIB collects them.

    Args:
        source: a JSON or JSONL file.
        reader: finds the files.
        patient_key: key of a row that names the patient.
        keep: other keys to keep.

    Returns:
        The candidates, each pair of image and mask once, in the order of the file; and what could not be used.

    Raises:
        UserError: if the file cannot be read or holds no candidate.
    """
    found: dict[tuple[str, str], Candidate] = {}
    failures = []
    for index, row in read_rows(source):
        name = f"{source}, row {index}"
        try:
            for image, mask, own in _pairs(row):
                check_plain_image(row, image)
                patient = text_of(row, patient_key)
                kept = {key: text for key in keep if (text := text_of(row, key)) is not None} if own else {}
                files = _resolved(image, mask, reader, image_folder(row))
                candidate = Candidate(*files, patient if own else None, kept)
                found.setdefault((str(candidate.image), json.dumps(candidate.mask, sort_keys=True)), candidate)
        except UserError as error:
            failures.append(Failure(name, str(error)))
    if not found:
        reason = f"; the first problem: {failures[0].name}: {failures[0].reason}" if failures else ""
        raise UserError(f"{source} holds no image with a mask: a row needs 'image' and 'mask' or 'masks'{reason}")
    return list(found.values()), failures


def text_of(row: Mapping[str, Any], key: str) -> str | None:
    """Return a value of a row as text; None where there is none. A whole number counts as its digits."""
    value = row.get(key)
    if value is None or value == "":
        return None
    if isinstance(value, bool | float) or not isinstance(value, str | int):
        raise UserError(f"'{key}' must be a text or a whole number")
    return str(value)


def image_folder(row: Mapping[str, Any]) -> str | None:
    """Return the folder of a row's images that its ``meta`` names, as converters write it; None without one."""
    meta = row.get("meta")
    return folder_of(meta) if isinstance(meta, str) else None


def check_plain_image(row: Mapping[str, Any], image: Any) -> None:
    """See that a row's image is found and looked at as retrieval does it.

    Raises:
        UserError: if row or image names frames, an axis or a window.
    """
    for given in (row, image if isinstance(image, Mapping) else {}):
        for key in VIEW_KEYS:
            if key != "fit" and given.get(key) is not None:
                raise UserError(f"'{key}' is not read by retrieval: prepare that picture by medcap prepare images")


def _pairs(row: Any) -> Iterator[tuple[Any, Any, bool]]:
    """Yield images and masks, and whether the row's patient and other keys are theirs: examples are other images."""
    if not isinstance(row, Mapping):
        raise UserError(f"a row must be an object, not {type(row).__name__}")
    read = read_example_row(row)
    masks = [] if read.mask is None else [read.mask]
    if not masks:
        given = row.get("masks")
        turns = next((row[key] for key in CONVERSATION_KEYS if row.get(key)), None)
        masks = list(given) if isinstance(given, list) else masks_in_turns(turns)
    if read.image is not None:
        yield from ((read.image, mask, True) for mask in masks if not _is_absent(mask))
    for image, mask in (*read.examples, *(pair for pair in flat_pairs(row) if None not in pair)):
        yield image, mask, False


def _is_absent(mask: Any) -> bool:
    return mask is None or (isinstance(mask, Mapping) and "mask" in mask and mask["mask"] is None)


def _resolved(image: Any, mask: Any, reader: ImageReader, folder: str | None) -> tuple[Path, str | dict[str, Any]]:
    if isinstance(image, list):
        raise UserError("'image' of a row with a mask must be one path")
    path = reader.resolve(image_entry(image, "image")[0], folder)
    return path, moved_mask(mask, lambda name: str(reader.resolve(name)))


def moved_mask(mask: Any, rename: Callable[[str], str]) -> str | dict[str, Any]:
    """Return a mask as a row holds it, with another name for its file if it has one.

    Args:
        mask: path, or an object that holds it under ``mask``; a mask without a file stays.
        rename: path -> path.

    Raises:
        UserError: if it is something else.
    """
    if isinstance(mask, str):
        return rename(mask)
    if not isinstance(mask, Mapping):
        raise UserError(f"a mask must be the path of a file or an object, not {type(mask).__name__}")
    changed = dict(mask)
    if isinstance(changed.get("mask"), str):
        changed["mask"] = rename(changed["mask"])
    return changed
