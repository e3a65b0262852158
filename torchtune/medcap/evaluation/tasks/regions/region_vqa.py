"""Questions about regions of an image, from any file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from medcap.data.regions.draw import as_run_length, draw_region
from medcap.data.row_regions import FIELD, REGION_TEXT, check_tags, count_regions, regions_of, with_regions
from medcap.errors import UserError
from medcap.evaluation.tasks.base import ImageFinder
from medcap.evaluation.tasks.questions.vqa import VqaTask, row_questions
from medcap.plurals import counted
from medcap.scoring.question import Question


class RegionVqaTask(VqaTask):
    """One question about regions and its accepted answers a row.

    The rows are those of :class:`VqaTask`. The question holds ``<region></region>`` for each of the row's ``regions``,
    in order, or MedPLIB's ``<region>masks/a.png</region>``. A question whose region cannot be used (its mask has
    another size than the image, is empty or is not there) counts as a failure.
    """

    name = "region_vqa"
    title = "Questions about regions"

    def _questions(self, value: Any, index: int, find: ImageFinder) -> list[Question]:
        questions = row_questions(value, index, find)
        for question in questions:
            check_tags(question.messages)
        counts = [count_regions(question.messages) for question in questions]
        if not all(counts):
            raise UserError(f"a question names no region: write {REGION_TEXT} for each of '{FIELD}'")
        given = value.get(FIELD) if isinstance(value, Mapping) else None
        if given is not None and (not isinstance(given, list) or len(given) != sum(counts)):
            found = counted(len(given), "region") if isinstance(given, list) else "no list of regions"
            raise UserError(f"{sum(counts)} {REGION_TEXT} in its questions but {found} under '{FIELD}'")
        asked = []
        for question, count in zip(questions, counts, strict=True):
            own, given = (given[:count], given[count:]) if given is not None else (None, None)
            asked.append(_with_regions(question, own, find))
        return asked


def _with_regions(question: Question, given: list[Any] | None, find: ImageFinder) -> Question:
    """Return a question with its regions, masks read; with a problem where one cannot be used."""
    try:
        messages = with_regions(question.messages, given, find.reader.resolve)
    except UserError as error:
        return replace(question, problem=question.problem or str(error))
    question = replace(question, messages=messages)
    if question.problem is not None:
        return question
    try:
        sizes = [find.reader.shown_size(image) for image in question.images]
        for message in messages:
            for part in message.content:
                if part["type"] == "region":
                    # Read here, so that a control can lay it on an image of another size.
                    part["content"] = as_run_length(part["content"], find.reader)
        for region in regions_of(messages):
            draw_region(region, sizes[region.image])
    except UserError as error:
        return replace(question, problem=str(error))
    return replace(question, image_size=sizes[0])
