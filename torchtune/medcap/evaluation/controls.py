"""Controls: the same questions without their own image, or another question about the same image.

A score that does not fall does not come from the image, or not from the question.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from torchtune.data import Message

from medcap.data.chat_tokenizer import role_of
from medcap.data.images.reference import ImageRef
from medcap.data.regions.scale import scale_region
from medcap.data.row_regions import regions_of
from medcap.errors import UserError
from medcap.evaluation.phrases import phrase_keys
from medcap.plurals import counted
from medcap.scoring.question import Question, message_text
from medcap.scoring.replies.box_reply import reference_boxes


def shuffled_images(questions: Sequence[Question], seed: int = 0) -> list[Question]:
    """Ask the same questions about other images.

    The images of a question, such as the slices of a volume, are exchanged together. The distinct sets of as many
    images are put into one random cycle, and each is replaced by the next one that has none of its images, so no
    question keeps one of its own, and questions that share their images still share them. Where images are alone,
    each of them is used once. A set that finds no other of its size gets any images but its own.

    Args:
        questions: what is asked; images are distinguished by path and view. A question with a problem is not changed.
        seed: seed of the cycle.

    Returns:
        The questions in the same order, with the images exchanged. Regions cover the same share of the other image,
        where both sizes are known.

    Raises:
        UserError: if there are not enough distinct images.
    """
    usable = [question for question in questions if question.problem is None and question.images]
    sets = list(dict.fromkeys(tuple(question.images) for question in usable))
    images = list(dict.fromkeys(image for one in sets for image in one))
    if len(images) < 2:
        raise UserError(f"images cannot be shuffled: the rows have {counted(len(images), 'distinct image')}")
    other: dict[tuple[ImageRef, ...], Sequence[ImageRef]] = {}
    for size in dict.fromkeys(map(len, sets)):
        alike = [one for one in sets if len(one) == size]
        order = np.random.default_rng(seed).permutation(len(alike))
        cycle = [alike[position] for position in order]
        for position, own in enumerate(cycle):
            following = (cycle[(position + step) % len(cycle)] for step in range(1, len(cycle)))
            found = next((one for one in following if not set(one) & set(own)), None)
            other[own] = _any_others(own, images, position) if found is None else found

    sizes = {question.images[0]: question.image_size for question in usable if len(question.images) == 1}

    def exchange(question: Question) -> Question:
        shown = other[tuple(question.images)]
        left = iter(shown)
        messages = [_map_parts(message, "image", lambda _: next(left)) for message in question.messages]
        old, new = question.image_size, sizes.get(shown[0])
        if old is not None and new is not None:
            scale = partial(scale_region, old=old, new=new)
            messages = [_map_parts(message, "region", scale) for message in messages]
        return replace(question, messages=messages)

    return [exchange(question) if question.problem is None and question.images else question for question in questions]


def _any_others(own: Sequence[ImageRef], images: Sequence[ImageRef], start: int) -> list[ImageRef]:
    """Take as many images that a question does not have, some of them twice where there are too few."""
    others = [image for image in images if image not in own]
    if not others:
        raise UserError("images cannot be shuffled: a row has all images of the benchmark")
    return [others[(start + number) % len(others)] for number in range(len(own))]


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


def exchanged_questions(questions: Sequence[Question], seed: int = 0) -> list[Question | None]:
    """Ask about another object of the same image.

    Questions of one image and one task that ask for boxes or masks of different objects rotate: each object's questions
    are replaced by those of the next one. Objects are distinguished by their phrase.

    Args:
        questions: what is asked.
        seed: unused; all controls have the same signature.

    Returns:
        For each question itself with the words of another, whose references, boxes and masks it keeps; None for one
        that asks for neither, or whose image has no other object.

    Raises:
        UserError: if no image has questions about two objects.
    """
    groups: dict[tuple[Any, ...], dict[str, list[int]]] = {}
    for index, question in enumerate(questions):
        if question.problem is None and question.images and _targets(question):
            key = (*question.images, question.meta.get("task", ""))
            groups.setdefault(key, {}).setdefault(phrase_keys(question)[0], []).append(index)
    changed: list[Question | None] = [None] * len(questions)
    for phrases in groups.values():
        names = list(phrases)
        for position, name in enumerate(names):
            following = [*names[position + 1 :], *names[:position]]
            for number, index in enumerate(phrases[name]):
                others = (questions[phrases[other][number % len(phrases[other])]] for other in following)
                own = _targets(questions[index])
                # Two wordings of one question ask for the same place: they are not two objects.
                other = next((other for other in others if _targets(other) != own), None)
                if other is not None:
                    changed[index] = replace(questions[index], messages=other.messages)
    if not any(changed):
        raise UserError("questions cannot be exchanged: no image has questions about two objects")
    return changed


def exchanged_regions(questions: Sequence[Question], seed: int = 0) -> list[Question | None]:
    """Ask about another region of the same image.

    Questions that name as many regions of the same images rotate: each gets the regions of the next one whose regions
    differ from its own.

    Args:
        questions: what is asked.
        seed: unused; all controls have the same signature.

    Returns:
        For each question itself with the regions of another; None for one that names none, or whose images have no
        other regions.

    Raises:
        UserError: if no image has questions about two regions.
    """
    named = [tuple(regions_of(question.messages)) if question.problem is None else () for question in questions]
    groups: dict[tuple[Any, ...], list[int]] = {}
    for index, (question, regions) in enumerate(zip(questions, named, strict=True)):
        if regions:
            groups.setdefault((*question.images, len(regions)), []).append(index)
    changed: list[Question | None] = [None] * len(questions)
    for members in groups.values():
        for place, index in enumerate(members):
            following = (named[other] for other in [*members[place + 1 :], *members[:place]])
            # Two questions about one region name the same place.
            other = next((regions for regions in following if regions != named[index]), None)
            if other is not None:
                left = iter(other)
                messages = [
                    _map_parts(message, "region", lambda _, left=left: next(left))
                    for message in questions[index].messages
                ]
                changed[index] = replace(questions[index], messages=messages)
    if not any(changed):
        raise UserError("regions cannot be exchanged: no image has questions about two regions")
    return changed


def _targets(question: Question) -> tuple[Any, ...] | None:
    """Return the masks or the boxes of the objects that a question asks for."""
    if question.masks is not None:
        return tuple(region for region in question.masks if region is not None)
    return reference_boxes(question)


CONTROLS: dict[str, Callable[[Sequence[Question], int], list[Question]]] = {
    "shuffled_image": shuffled_images,
    "no_image": no_image,
}


def _map_parts(message: Message, kind: str, change: Callable[[Any], Any]) -> Message:
    content = [
        {**part, "content": change(part["content"])} if part["type"] == kind else dict(part) for part in message.content
    ]
    return _like(message, content)


def _without_images(message: Message) -> Message:
    if all(part["type"] == "text" for part in message.content):
        return message
    return _like(message, [{"type": "text", "content": message_text(message)}])


def _like(message: Message, content: list[dict[str, Any]]) -> Message:
    role = role_of(message)
    return Message(role=role, content=content, masked=message.masked, ipython=message.ipython, eot=message.eot)
