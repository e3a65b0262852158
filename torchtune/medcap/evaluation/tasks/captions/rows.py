"""Rows that ask for a caption or a report of any number of images."""

from __future__ import annotations

from medcap.datasets.published.captions.caption import PublishedCaption
from medcap.datasets.published.fields import field_text
from medcap.evaluation.tasks.official import NO_ANSWER
from medcap.evaluation.tasks.row_images import RowImages
from medcap.generation.prompt import user_message
from medcap.scoring.question import Question


def caption_row(it: PublishedCaption, images_of: RowImages, words: str = "") -> Question:
    """Make a row, whatever is wrong with it.

    Args:
        it: what the file says.
        images_of: finds its images.
        words: what is asked; "" shows the images alone, as the training rows of captions do.

    Returns:
        The row, with a ``problem`` if an image or the caption is missing.
    """
    images, problem = images_of(it.images, it.suffixes)
    return Question(
        it.id,
        [user_message(images, words)],
        (it.caption or NO_ANSWER,),
        meta={key: field_text(value) for key, value in it.meta.items() if field_text(value)},
        problem=problem or (None if it.caption else "the file gives no caption"),
    )
