"""Answers without turns, as a file of answers has them."""

from __future__ import annotations

from collections.abc import Mapping

from medcap.scoring.question import Answer, Question


def make_answer(
    id: str,
    text: str,
    references: tuple[str, ...],
    prediction: str,
    options: tuple[str, ...] = (),
    answer_type: str = "",
    groups: Mapping[str, str] | None = None,
    image: str = "",
    columns: tuple[str, ...] = (),
) -> Answer:
    """An answer to a question of these words; see :class:`Question` for the rest."""
    named = {"words": text, "columns": columns, "image_names": (image,) if image else ()}
    question = Question(id, (), references, options, answer_type, groups or {}, **named)
    return Answer(question, prediction)
