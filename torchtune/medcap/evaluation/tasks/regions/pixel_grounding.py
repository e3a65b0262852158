"""Masks from any file: rows of a user's own, MedPLIB's, and those that ``medcap prepare`` makes of sets of masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.data.boxes.box import Size
from medcap.data.images.reader import ImageReader
from medcap.data.regions.draw import as_run_length, draw_region
from medcap.data.regions.mask_tags import take_mask_files
from medcap.data.regions.region import MaskFile, Region, RunLength, label_from_json, regions_from_json
from medcap.data.row_masks import FIELD, MASK_WORD
from medcap.datasets.published.fields import field_text
from medcap.datasets.rows.json_rows import read_rows
from medcap.errors import UserError
from medcap.evaluation.tasks.base import (
    DEFAULTS,
    Benchmark,
    ImageFinder,
    LoadOptions,
    Task,
    image_reader,
    make_benchmark,
)
from medcap.evaluation.tasks.questions.vqa import data_file
from medcap.evaluation.tasks.regions.boxes import Sizes
from medcap.evaluation.tasks.regions.object_rows import REFERENCE_KEYS, row_id, row_image, row_meta, row_size, row_words
from medcap.generation.prompt import user_message
from medcap.scoring.question import Question

SEGMENT_OBJECT = "Segment the {}."
_FILES = ("pixel_grounding.jsonl", "pixel_grounding.json", "test_seg.jsonl", "test.jsonl", "test.json")
_NONE = "none"  # the reference of a question about what the image does not show


class PixelGroundingTask(Task):
    """One question about an image's masks a row, in JSON or JSONL.

    A row has ``image``, ``question`` or ``phrase`` (then "Segment the PHRASE." is asked), and ``masks``: a list of
    regions, each a mask file, a run-length, a box, a point or a polygon; null, or an empty list, for what is absent.
    The label of a mask is its own, else the row's ``label``, else its ``phrase``. Rows with ``conversations`` are read
    too: their first question and answer, with ``masks`` for each ``<SEG>``, or with MedPLIB's
    ``<SEG><mask>file.png</mask>``. A row may have ``image_size`` (the size of its masks, where the image file has
    another one), ``question_id``, ``task``, ``patient`` (intervals then draw patients), ``modality`` and ``organ``. A
    row without ``masks`` is answered in words.
    """

    name = "pixel_grounding"
    title = "Masks"
    protocols = ("masks", "medplib_seg")

    def load(self, source: str | Path, options: LoadOptions = DEFAULTS) -> Benchmark:
        """Read the rows; see :meth:`Task.load`."""
        path = data_file(source, _FILES)
        find = ImageFinder(image_reader(path, options.image_roots), options.view)
        sizes = Sizes(find)
        rows = []
        for index, value in read_rows(path):
            try:
                rows.append(_question(value, index, find, sizes))
            except UserError as error:
                raise UserError(f"{path}, row {index}: {error}") from None
        return make_benchmark(rows, path, [path], path.parent, roots=find.reader.roots)


@dataclass(frozen=True)
class WantedMasks:
    """What a row asks for.

    Attributes:
        regions: as ``Question.masks`` has them, their files read into run-lengths.
        labels: as ``Question.mask_labels`` has them.
    """

    regions: tuple[Region | None, ...]
    labels: tuple[str, ...]


def _question(value: Any, index: int, find: ImageFinder, sizes: Sizes) -> Question:
    if not isinstance(value, Mapping):
        raise UserError(f"a row must be an object, not {type(value).__name__}")
    image, problem = row_image(value, find)
    words, answer = row_words(value, SEGMENT_OBJECT)
    reference, files = take_mask_files(answer)
    if files and value.get(FIELD) is not None:
        raise UserError(f"it has '{FIELD}' and <mask> in its answer: give masks in one of the two ways")
    given = list(files) if files else value.get(FIELD)
    if given is None and not reference:
        raise UserError(f"there is neither '{FIELD}' nor '{REFERENCE_KEYS[0]}' to compare with")
    meta, size, wanted = row_meta(value), row_size(value), None
    if problem is None and size is None:
        try:
            size = sizes(image)
        except UserError as error:
            problem = str(error)
    if given is not None:
        try:
            label = field_text(value.get("label")) or meta.get("phrase", "")
            wanted = read_masks(given, label, reference, find.reader, size)
        except UserError as error:
            problem = problem or str(error)
    labels = wanted.labels if wanted else ()
    return Question(
        row_id(value, index),
        [user_message(image, words)],
        (reference or words_of_masks(wanted),),
        meta=meta,
        problem=problem,
        image_size=size,
        masks=wanted.regions if wanted else None,
        mask_labels=labels if any(labels) else (),
    )


def read_masks(given: Any, label: str, reference: str, reader: ImageReader, size: Size | None) -> WantedMasks:
    """Read the masks that a row asks for.

    Args:
        given: a list of regions; see :func:`medcap.data.regions.region.region_from_json`. Empty for an absent object.
        label: of masks without their own.
        reference: the answer; with ``<SEG>`` in it, there is one for each mask.
        reader: finds and opens mask files.
        size: width and height of the image; None where it is not known.

    Returns:
        The masks; None with its label for an absent object.

    Raises:
        UserError: if a mask cannot be read or has another size than the image, or the answer has not one ``<SEG>``
            for each of them.
    """
    regions = regions_from_json(given, FIELD, absent=True)
    labels = tuple(label_from_json(entry) or label for entry in given)
    words = reference.count(MASK_WORD)
    if words and words != len(regions):
        raise UserError(f"{words} {MASK_WORD} in its answer but {len(regions)} masks: give each word its mask")
    if not regions:
        return WantedMasks((None,), (label,))
    return WantedMasks(tuple(_read(region, reader, size) for region in regions), labels)


def words_of_masks(wanted: WantedMasks | None) -> str:
    """Return an answer's words for masks: the label of each and ``<SEG>``."""
    named = zip(wanted.regions, wanted.labels, strict=True) if wanted else ()
    return ", ".join(f"{label} {MASK_WORD}".strip() for region, label in named if region is not None) or _NONE


def _read(region: Region | None, reader: ImageReader, size: Size | None) -> Region | None:
    """Return a mask with its file read, once it is seen that it can be compared; a mask may be empty, a box may not."""
    if region is None:
        return None
    if size is not None:
        draw_region(region, size, reader, may_be_empty=isinstance(region.shape, MaskFile | RunLength))
    return as_run_length(region, reader)
