"""Controls: the same questions without their own image. A score that does not fall does not come from the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torchtune.data import Message

from medcap.data.chat_tokenizer import role_of
from medcap.data.images.reference import ImageRef
from medcap.errors import UserError
from medcap.scoring.question import Question


def shuffled_images(questions: Sequence[Question], seed: int = 0) -> list[Question]:
    """Ask the same questions about other images.

    The distinct images are put into one random cycle and each is replaced by its successor, so no question keeps its
    own, every image is used, and questions that share an image still share one.

    Args:
        questions: what is asked; images are distinguished by path and view. A question with a problem is not changed.
        seed: seed of the cycle.

    Returns:
        The questions in the same order, with the images exchanged.

    Raises:
        UserError: if there are fewer than two distinct images.
    """
    images = list(
        dict.fromkeys(image for question in questions if question.problem is None for image in question.images)
    )
    if len(images) < 2:
        raise UserError(f"images cannot be shuffled: the rows have {len(images)} distinct image(s)")
    order = np.random.default_rng(seed).permutation(len(images))
    other = {images[position]: images[following] for position, following in zip(order, np.roll(order, -1), strict=True)}

    def exchange(question: Question) -> Question:
        messages = [_map_images(message, other.__getitem__) for message in question.messages]
        return replace(question, messages=messages)

    return [exchange(question) if question.problem is None and question.images else question for question in questions]


def no_image(questions: Sequence[Question], seed: int = 0) -> list[Question]:
    """Ask the same questions without any image.

    Args:
        questions: what is asked.
        seed: unused; all controls have the same signature.

    Returns:
        The questions without image parts and without the line break that followed them. One whose image is missing
        stays a failure.
    """
    return [
        replace(question, messages=[_without_images(message) for message in question.messages])
        for question in questions
    ]


CONTROLS: dict[str, Callable[[Sequence[Question], int], list[Question]]] = {
    "shuffled_image": shuffled_images,
    "no_image": no_image,
}


def _map_images(message: Message, change: Callable[[ImageRef], ImageRef]) -> Message:
    content = [
        {**part, "content": change(part["content"])} if part["type"] == "image" else dict(part)
        for part in message.content
    ]
    return _like(message, content)


def _without_images(message: Message) -> Message:
    if not message.contains_media:
        return message
    text = "".join(part["content"] for part in message.content if part["type"] == "text")
    return _like(message, [{"type": "text", "content": text.strip()}])


def _like(message: Message, content: list[dict[str, Any]]) -> Message:
    role = role_of(message)
    return Message(role=role, content=content, masked=message.masked, ipython=message.ipython, eot=message.eot)
