"""Rows of multiple-choice questions about any number of images."""

from __future__ import annotations

from torchtune.data import Message

from medcap.data.images.reference import ImageRef
from medcap.data.row_layouts import PLACEHOLDER
from medcap.datasets.published.choices.question import ChoiceQuestion, letter_index
from medcap.datasets.published.fields import field_text
from medcap.evaluation.tasks.official import NO_ANSWER
from medcap.evaluation.tasks.row_images import RowImages
from medcap.generation.prompt import user_message
from medcap.generation.typed_placeholders import place_images
from medcap.scoring.question import Question

# What a choice is scored by: the likeliest letter, the likeliest words, and an answer in words.
PROTOCOLS = ("option_letter", "option_text", "omnimedvqa_qa")


def choice_row(it: ChoiceQuestion, images_of: RowImages) -> Question:
    """Make a row, whatever is wrong with it; a letter that no option has is kept as its answer, which is wrong.

    Args:
        it: what the file says.
        images_of: finds its images.

    Returns:
        The row, with a ``problem`` if an image, the words, the options or the answer are missing.
    """
    images, missing = images_of(it.images)
    columns = it.columns or ()
    options = tuple(filter(None, columns))
    problems = (
        it.problem,
        missing,
        None if it.question.replace(PLACEHOLDER, "").strip() else "the file gives no question",
        "the file gives fewer than two options" if it.columns is not None and len(options) < 2 else None,
        None if it.answer else "the file gives no answer",
    )
    return Question(
        id=it.id,
        messages=[_message(images, it.question)],
        references=_references(it, columns),
        options=options,
        columns=() if len(options) == len(columns) else columns,
        meta={key: field_text(value) for key, value in it.meta.items() if field_text(value)},
        problem=next(filter(None, problems), None),
    )


def _references(it: ChoiceQuestion, columns: tuple[str, ...]) -> tuple[str, ...]:
    if not isinstance(it.answer, str):
        return it.answer or (NO_ANSWER,)
    index = letter_index(it.answer)
    if index is not None and index < len(columns) and columns[index]:
        return (columns[index],)
    # Options may be letters themselves, so the unknown letter alone could be one of them.
    return (f"(option {it.answer}, which the question does not have)" if it.answer else NO_ANSWER,)


def _message(images: list[ImageRef], words: str) -> Message:
    if PLACEHOLDER in words and words.count(PLACEHOLDER) == len(images):
        return Message(role="user", content=place_images(words, images), masked=True)
    return user_message(images, words.replace(PLACEHOLDER, " ").strip())
