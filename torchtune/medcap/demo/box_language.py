"""Text that teaches a tiny language model to read boxes, and to say them: what it will later be shown as images."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from medcap.data.boxes.box import Box
from medcap.data.boxes.notations import write_box
from medcap.datasets.phantoms.records import KINDS, choose, conversation, random_stream
from medcap.datasets.phantoms.scene_questions import BOX, ask
from medcap.datasets.phantoms.scenes import Scene, join_words, make_scene

SIDE = 64  # pixels: boxes are written in pixels of an image of this size
NOTATION = "coloninst"  # one token a number and one between two numbers
_OTHER_NAMES = ("lump", "blob", "bar", "star", "streak", "patch", "dot", "arc", "wedge", "spot", "cone", "knot")
_SMALLEST, _LARGEST = 8, 28  # pixels, sides of boxes
_STREAM = 8  # purpose of the random streams

Edges = tuple[int, int, int, int]
Boxes = dict[str, Edges]
# Copying a box by its name is learnt last, so it is asked most.
_TYPES = ("box", "box", "box", "kind", "kind", "boxes", "presence", "absent")


def box_text_records(
    count: int, seed: int, lesions: Sequence[int] = (1, 2, 2, 3), turns: int = 5
) -> list[dict[str, Any]]:
    """Return conversations about boxes: a description, then several questions about it.

    Half of them are about other things than lesions, so that names are read, not known by heart.

    Args:
        count: number of conversations.
        seed: of all of them.
        lesions: how many things a description names; each number is equally likely.
        turns: questions a conversation.
    """
    records = []
    for index in range(count):
        scene, boxes, stream = _scene(seed, index, lesions)
        pairs = [question_and_answer(scene, boxes, choose(stream, _TYPES), stream) for _ in range(turns)]
        text = describe_boxes(scene, boxes, stream)
        talk = [
            turn
            for number, (question, answer) in enumerate(pairs)
            for turn in conversation(
                question if number else text + choose(stream, ("\n", "\n\n", " ")) + question, answer
            )
        ]
        if stream.integers(2):
            talk = _renamed(talk, stream)
        records.append({"id": f"boxes-{seed}-{index:06d}", "conversations": talk})
    return records


def box_question_records(count: int, seed: int, question_type: str) -> list[dict[str, Any]]:
    """Return one question each about held-out descriptions of two lesions.

    Args:
        count: number of conversations.
        seed: of all of them.
        question_type: "box" (where is it), "kind" (what is there), "boxes" (where are they), "presence" or "absent"
            (where is what is not there).
    """
    records = []
    for index in range(count):
        scene, boxes, stream = _scene(seed, index, (2,))
        question, answer = question_and_answer(scene, boxes, question_type, stream)
        text = describe_boxes(scene, boxes, stream)
        records.append(
            {"id": f"{question_type}-{seed}-{index:06d}", "conversations": conversation(f"{text}\n{question}", answer)}
        )
    return records


def describe_boxes(scene: Scene, boxes: Boxes, stream: np.random.Generator) -> str:
    """Say what lies where, in one of several forms and any order."""
    order = [scene.lesions[number].kind for number in stream.permutation(len(scene.lesions))]
    form = stream.random()
    if form < 0.4:
        return " ".join(f"The {kind} is at {_written(boxes[kind])}." for kind in order)
    if form < 0.7:
        return f"{join_words([f'{kind} {_written(boxes[kind])}' for kind in order])}."
    return f"There is {join_words([f'a {kind} at {_written(boxes[kind])}' for kind in order])}."


def random_scene(seed: int, index: int, lesions: Sequence[int]) -> Scene:
    """Return a scene whose lesions lie anywhere: only their kinds count here."""
    return make_scene(seed, index, lesions)


def random_edges(stream: np.random.Generator) -> Edges:
    """Return a box within an image: left, top, right and bottom in pixels."""
    width, height = stream.integers(_SMALLEST, _LARGEST + 1, 2)
    left, top = stream.integers(0, SIDE - width + 1), stream.integers(0, SIDE - height + 1)
    return int(left), int(top), int(left + width), int(top + height)


def question_and_answer(scene: Scene, boxes: Boxes, question_type: str, stream: np.random.Generator) -> tuple[str, str]:
    """Ask about a scene, with other boxes than those of its lesions.

    Args:
        scene: says which kinds are there.
        boxes: where each of them lies, in pixels.
        question_type: as :func:`medcap.datasets.phantoms.scene_questions.ask` has it, or "absent": the box of a kind
            that is not there.
        stream: source of the wording.
    """
    kind = choose(stream, scene.absent) if question_type == "absent" else ""
    question = ask(scene, "box" if kind else question_type, stream, kind)
    answer = question.answer
    for name in question.boxes or ():
        answer = answer.replace(BOX, _written(boxes[name]), 1)
    asked = _written(boxes[question.kind]) if question.kind in boxes else ""
    return question.text.replace(BOX, asked), answer


def number_texts() -> Iterator[str]:
    """Yield every number that a box may hold, as its text has it."""
    return (f"{{<{number}><{number}>}}" for number in range(SIDE + 1))


def _scene(seed: int, index: int, lesions: Sequence[int]) -> tuple[Scene, Boxes, np.random.Generator]:
    scene, stream = random_scene(seed, index, lesions), random_stream(seed, index, _STREAM)
    return scene, {lesion.kind: random_edges(stream) for lesion in scene.lesions}, stream


def _written(edges: Edges) -> str:
    left, top, right, bottom = (edge / SIDE for edge in edges)
    return write_box(Box((left, top, right, bottom)), NOTATION, (SIDE, SIDE))


def _renamed(talk: list[dict[str, str]], stream: np.random.Generator) -> list[dict[str, str]]:
    names: dict[str, str] = dict(zip(KINDS, stream.permutation(_OTHER_NAMES)[: len(KINDS)].tolist(), strict=True))
    return [turn | {"value": re.sub("|".join(KINDS), lambda kind: names[kind[0]], turn["value"])} for turn in talk]
