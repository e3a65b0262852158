"""Boxes from any file: the rows of a user's own, and those that ``medcap prepare`` makes of sets of boxes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medcap.data.boxes.box import Box, Size, listed_boxes, pixels_of
from medcap.data.boxes.notations import find_box_texts, write_box
from medcap.data.boxes.style import NOT_SEEN
from medcap.datasets.published.box_questions import BOX, NONE, WHERE_OBJECT
from medcap.datasets.published.fields import field_text
from medcap.datasets.published.marked import MarkedImage, MarkedObject, boxes_of
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
from medcap.evaluation.tasks.regions.boxes import UNUSABLE, Sizes
from medcap.evaluation.tasks.regions.object_rows import REFERENCE_KEYS, row_id, row_image, row_meta, row_size, row_words
from medcap.generation.prompt import user_message
from medcap.scoring.question import Question
from medcap.scoring.replies.box_reply import boxes_in_text, in_pixels

_FILES = ("grounding.jsonl", "grounding.json", "test.jsonl", "test.json")
# Kinds of questions whose answers are boxes; an answer without one says that the object is absent.
_ASK_FOR_BOXES = ("REC", "DET", "VG")


class GroundingTask(Task):
    """One question about an image's boxes a row, in JSON or JSONL.

    A row has ``image``, ``question`` or ``phrase`` (then "Where is the PHRASE?" is asked), and the answer: ``boxes``
    (``[x1, y1, x2, y2]`` in pixels, a list of them; empty where the object is absent), or ``reference`` (``answer``), a
    text with boxes in any notation. It may have ``image_size`` (width and height that the pixels are of, where the
    file has another resolution), ``question_id``, ``task`` (a row of REG is answered in words), ``patient`` (intervals
    then draw patients), ``modality`` and ``organ``. Rows with ``conversations``, as ``medcap prepare`` writes them, are
    read too: their first question and answer, with ``boxes`` for each ``<BOX>``, null for what is absent.
    """

    name = "grounding"
    title = "Boxes"
    protocols = ("boxes",)

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


def _question(value: Any, index: int, find: ImageFinder, sizes: Sizes) -> Question:
    if not isinstance(value, Mapping):
        raise UserError(f"a row must be an object, not {type(value).__name__}")
    image, problem = row_image(value, find)
    words, reference = row_words(value, WHERE_OBJECT)
    if not reference and value.get("boxes") is None:
        raise UserError(f"there is neither 'boxes' nor '{REFERENCE_KEYS[0]}' to compare with")
    reference = _with_absent(value, reference)
    given = row_size(value)
    size = given
    if problem is None:
        try:
            size = sizes(image)
        except UserError as error:
            problem = str(error)
    meta = row_meta(value)
    boxes = None
    try:
        unit = given if size is None else pixels_of(given, size)
        boxes = _boxes(value, reference, meta, unit)
        words, reference = (_of_file(text, unit, size) for text in (words, reference))
    except UserError as error:
        problem, reference = problem or str(error), reference if BOX not in reference else UNUSABLE
    return Question(
        row_id(value, index),
        [user_message(image, words)],
        (_written(reference, boxes, size),),
        meta=meta,
        problem=problem,
        boxes=boxes,
        image_size=size,
    )


def _of_file(text: str, unit: Size | None, size: Size | None) -> str:
    """Return a text with its pixels those of the image file, where the row's are those of a copy of another size."""
    if unit is None or size is None or unit == size or not in_pixels(text):
        return text
    pieces, end = [], 0
    for found in find_box_texts(text, "coloninst"):
        edges = found.edges_within(unit)
        if edges is not None:
            pieces += [text[end : found.start], write_box(Box(edges), "coloninst", size)]
            end = found.end
    return "".join([*pieces, text[end:]])


def _boxes(
    value: Mapping[str, Any], reference: str, meta: Mapping[str, str], unit: Size | None
) -> tuple[Box, ...] | None:
    """Return the boxes that are asked for, pixels being those of an image of the size ``unit``; None for words."""
    entries = value.get("boxes")
    if entries is None:
        absent = meta.get("task") in _ASK_FOR_BOXES or ("phrase" in meta and "task" not in meta)
        found = boxes_in_text(reference, unit)
        if found.unread and (absent or found.boxes or "task" not in meta):
            raise UserError(f"its reference holds {found.example!r}, which is no box on the image")
        return found.boxes if found.boxes or absent else None
    entries = [entry for entry in listed_boxes(entries) if not _is_absent(entry)]
    labels = [field_text(entry.get("label")) if isinstance(entry, Mapping) else "" for entry in entries]
    numbers = tuple(entry.get("box") if isinstance(entry, Mapping) else entry for entry in entries)
    boxes = boxes_of(MarkedObject("", numbers), MarkedImage("", (), (), unit), unit)
    return tuple(replace(box, label=label) for box, label in zip(boxes, labels, strict=True))


def _is_absent(entry: Any) -> bool:
    return entry is None or (isinstance(entry, Mapping) and "box" in entry and entry["box"] is None)


def _with_absent(value: Mapping[str, Any], reference: str) -> str:
    """Return the reference with words in the place of each ``<BOX>`` of what is absent."""
    entries = value.get("boxes")
    each = iter(entries if isinstance(entries, list) else ())
    return re.sub(re.escape(BOX), lambda match: NOT_SEEN if _is_absent(next(each, ())) else match[0], reference)


def _written(reference: str, boxes: tuple[Box, ...] | None, size: Size | None) -> str:
    """Return the reference as text: each ``<BOX>`` in thousandths, and boxes without any words likewise."""
    if boxes is None:
        return reference or UNUSABLE
    texts = [write_box(replace(box, label=""), "thousandths", size or (1, 1)) for box in boxes]
    if BOX in reference:
        each = iter(texts)
        return re.sub(re.escape(BOX), lambda match: next(each, match[0]), reference)
    return reference or ", ".join(texts) or NONE
