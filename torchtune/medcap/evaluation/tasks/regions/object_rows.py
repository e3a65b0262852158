"""What the rows of tasks about objects on an image have in common, whether they ask for boxes or for masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcap.data.boxes.box import Size, size_from_json
from medcap.data.images.reference import ImageRef
from medcap.data.images.view_keys import read_view
from medcap.data.row_layouts import CONVERSATION_KEYS, folder_of, text_of_value
from medcap.datasets.published.fields import ask_for, field_text, question_text
from medcap.datasets.published.llava_turns import conversation_questions
from medcap.errors import UserError
from medcap.evaluation.tasks.base import ImageFinder
from medcap.evaluation.tasks.regions.boxes import text_meta

REFERENCE_KEYS = ("reference", "answer")
_ID_KEYS = ("question_id", "id", "qid")
_META_KEYS = ("task", "phrase", "patient", "modality", "question_type", "organ", "dataset")


def row_id(value: Mapping[str, Any], index: int) -> str:
    """Return the name of a row's question; its number where it has none."""
    return next((field_text(value[key]) for key in _ID_KEYS if field_text(value.get(key))), str(index))


def row_meta(value: Mapping[str, Any]) -> dict[str, str]:
    """Return the text fields of a row that tables, controls and intervals use."""
    return text_meta({key: field_text(value.get(key)) for key in _META_KEYS})


def row_image(value: Mapping[str, Any], find: ImageFinder) -> tuple[ImageRef, str | None]:
    """Return a row's image and what is wrong with it.

    Raises:
        UserError: if the row does not name one image.
    """
    name = value.get("image")
    if not isinstance(name, str) or not name:
        raise UserError("'image' must name the row's one image")
    meta, find.problem = value.get("meta"), None
    path = find(name, folder_of(meta) if isinstance(meta, str) else None)
    return ImageRef(str(path), read_view(value, find.view)), find.problem


def row_words(value: Mapping[str, Any], ask: str) -> tuple[str, str]:
    """Return a row's question and the words of its reference, which may be empty.

    Args:
        value: has ``conversations``, or ``question`` or ``phrase`` and perhaps ``reference`` (``answer``).
        ask: question about a phrase, with ``{}`` for it.

    Raises:
        UserError: if nothing is asked.
    """
    key = next((key for key in CONVERSATION_KEYS if key in value), None)
    if key is not None:
        question, reference = next(iter(conversation_questions(value[key], key)))
    else:
        question, phrase = field_text(value.get("question")), field_text(value.get("phrase"))
        question = question or (ask_for(ask, phrase) if phrase else "")
        name = next((name for name in REFERENCE_KEYS if value.get(name) is not None), None)
        reference = "" if name is None else text_of_value(value[name], name).strip()
    if not question_text(question):
        raise UserError("there is no 'question' and no 'phrase' to ask for")
    return question_text(question), reference


def row_size(value: Mapping[str, Any]) -> Size | None:
    """Return the width and height that a row gives under ``image_size``.

    Raises:
        UserError: if it is something else.
    """
    return size_from_json(value.get("image_size"))
