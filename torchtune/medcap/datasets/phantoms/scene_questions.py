"""Questions about scenes with several lesions: boxes and masks asked for, boxes named, attributes, captions, text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from medcap.data.boxes.style import NOT_SEEN
from medcap.data.row_regions import REGION_TEXT
from medcap.datasets.phantoms.records import (
    BRIGHTNESSES,
    KINDS,
    MODALITIES,
    OUTLINES,
    PHRASINGS,
    SEPARATORS,
    SIZES,
    choose,
    conversation,
    random_stream,
)
from medcap.datasets.phantoms.scenes import QUESTIONS, TEXT, Scene, join_words, make_scene

BOX = "<BOX>"  # stands for the box of a lesion, in a question and in an answer
SOMEWHERE = "X"  # stands for it where there is nothing but words
SEG = "<SEG>"  # stands for the mask of a lesion in an answer
# Detection (all lesions), a phrase's box, a box's kind, other questions, captions, a phrase's mask, a region's kind.
TASKS = ("DET", "REC", "REG", "VQA", "CAP", "SEG", "RVQA")

_COUNTS = {1: "one", 2: "two", 3: "three"}
_OPTIONS = {
    "modality": MODALITIES,
    "count": tuple(_COUNTS.values()),
    "presence": ("yes", "no"),
    "size": SIZES,
    "brightness": BRIGHTNESSES,
    "outline": OUTLINES,
    "side": ("left", "right"),
}
ATTRIBUTES = ("size", "brightness", "outline")

_REGION_PHRASINGS = (
    "Which kind of lesion lies in {region}?",
    "What is the lesion in {region}?",
    "Name the lesion in {region}.",
)
_PHRASINGS = {
    "box": ("Where is the {kind}?", "Find the {kind}.", "Point at the {kind}."),
    "boxes": ("Where are the lesions?", "Find every lesion.", "Point at all lesions."),
    "kind": tuple(text.format(region="{box}") for text in _REGION_PHRASINGS),
    "modality": PHRASINGS["modality"],
    "presence": tuple(text.format(value="{kind}") for text in PHRASINGS["kind_check"]),
    "count": (
        "How many lesions are there: one, two or three?",
        "Are there one, two or three lesions?",
        "Does the image show one, two or three lesions?",
    ),
    "size": (
        "Is the {kind} small, medium or large?",
        "How big is the {kind}: small, medium or large?",
        "What size is the {kind}: small, medium or large?",
    ),
    "brightness": (
        "Is the {kind} bright or dark?",
        "Does the {kind} look bright or dark?",
        "Compared with its surroundings, is the {kind} bright or dark?",
    ),
    "outline": (
        "Is the outline of the {kind} smooth or spiky?",
        "Does the {kind} have a smooth or spiky outline?",
        "What outline does the {kind} have: smooth or spiky?",
    ),
    "side": (
        "Is the {kind} left or right of the {other}?",
        "Does the {kind} lie to the left or right of the {other}?",
    ),
    "mask": (
        "Segment the {kind}.",
        "Outline the {kind}.",
        "Mark the pixels of the {kind}.",
        "Can you segment the {kind} in this image?",
    ),
    "region": tuple(text.format(region=REGION_TEXT) for text in _REGION_PHRASINGS),
    "caption": ("Describe the image.", "What does the image show?"),
}
_SENTENCES = (
    "In this {modality} there is {first}.{rest}",
    "This {modality} shows {first}.{rest}",
)
# Taught by text: what a description says. Binding a name to what stands beside it is learnt last, so it is asked most.
_TAUGHT = ("box", "box", "box", "boxes", "modality", "count", "presence", "presence", *ATTRIBUTES, *ATTRIBUTES)


@dataclass(frozen=True)
class SceneQuestion:
    """A question about a scene with its right answer.

    Attributes:
        task: one of ``TASKS``.
        question_type: what it is about.
        text: may hold ``<BOX>`` for the lesion ``kind``.
        answer: holds ``<BOX>`` once for each of ``boxes``; of an absent lesion at most once.
        kind: the lesion that is asked about; "" for none.
        boxes: the kinds whose boxes are the answer; empty for an absent lesion, None where no box is asked for.
        masks: the kinds whose masks are the answer, likewise; the answer holds ``<SEG>`` once, also of an absent one.
        options: the possible answers; empty for an open question.
        regions: the kinds whose regions the question names, each by ``<region></region>``.
    """

    task: str
    question_type: str
    text: str
    answer: str
    kind: str = ""
    boxes: tuple[str, ...] | None = None
    masks: tuple[str, ...] | None = None
    options: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()


def scene_questions(scene: Scene, short: bool = False) -> list[SceneQuestion]:
    """Return all questions about a scene, in the order of ``TASKS``; ``short`` is as in :func:`ask`.

    All lesions at once; each lesion and one absent kind by name; each lesion by its box; its modality, the number of
    lesions, whether a kind is there, an attribute of each sort, which of two lies to the left; its caption; the
    mask of each lesion and of one absent kind by name; and each lesion by its region.
    """
    stream = random_stream(scene.seed, scene.index, QUESTIONS)
    kinds = [lesion.kind for lesion in scene.lesions]
    types = [name for name in _OPTIONS if name != "side" or len(kinds) > 1]
    return [
        ask(scene, "boxes", stream),
        *(ask(scene, "box", stream, kind, short) for kind in (*kinds, choose(stream, scene.absent))),
        *(ask(scene, "kind", stream, kind) for kind in kinds),
        *(ask(scene, name, stream) for name in types),
        ask(scene, "caption", stream),
        *(ask(scene, "mask", stream, kind) for kind in (*kinds, choose(stream, scene.absent))),
        *(ask(scene, "region", stream, kind) for kind in kinds),
    ]


def ask(
    scene: Scene, question_type: str, stream: np.random.Generator, kind: str = "", short: bool = False
) -> SceneQuestion:
    """Ask one question.

    Args:
        scene: what is true.
        question_type: "boxes", "box", "kind", "modality", "count", "presence", "size", "brightness", "outline", "side",
            "caption", "mask" or "region".
        stream: source of the wording, and of the kind where it is not given.
        kind: the lesion to ask about; by default one that is shown, or for a presence as often as not an absent one.
        short: answer where a lesion is by "ring <BOX>." instead of "The ring is at <BOX>.", and also where an absent
            one is, so that the head that gives the box has to say that there is none. A hidden state right after a name
            tells much more of the name, which the head has to know.
    """
    text = choose(stream, _PHRASINGS[question_type])
    kinds = tuple(lesion.kind for lesion in scene.lesions)
    options = _OPTIONS.get(question_type, ())
    if question_type == "caption":
        return SceneQuestion("CAP", question_type, text, scene.caption)
    if question_type == "boxes":
        return SceneQuestion(
            "DET", question_type, text, f"{join_words([f'{name} {BOX}' for name in kinds])}.", "", kinds
        )
    if question_type == "modality":
        return SceneQuestion("VQA", question_type, text, scene.modality, options=options)
    if question_type == "count":
        return SceneQuestion("VQA", question_type, text, _COUNTS[len(kinds)], options=options)
    if question_type == "presence":
        kind = kind or choose(stream, kinds if stream.integers(2) else scene.absent)
        answer = "yes" if kind in kinds else "no"
        return SceneQuestion("VQA", question_type, text.format(kind=kind), answer, kind, options=options)
    kind = kind or choose(stream, kinds)
    if question_type == "box":
        shown = kind in kinds
        answer = f"The {kind} is at {BOX}." if shown else f"There is no {kind}."
        answer = f"{kind} {BOX}." if short else answer
        return SceneQuestion("REC", question_type, text.format(kind=kind), answer, kind, (kind,) if shown else ())
    if question_type == "mask":
        masks = (kind,) if kind in kinds else ()
        return SceneQuestion("SEG", question_type, text.format(kind=kind), f"{kind} {SEG}.", kind, masks=masks)
    if question_type == "kind":
        return SceneQuestion("REG", question_type, text.format(box=BOX), kind, kind, options=KINDS)
    if question_type == "region":
        return SceneQuestion("RVQA", question_type, text, kind, kind, options=KINDS, regions=(kind,))
    if question_type == "side":
        other = choose(stream, tuple(name for name in kinds if name != kind))
        answer = "left" if scene.lesion(kind).centre[0] < scene.lesion(other).centre[0] else "right"
        return SceneQuestion("VQA", question_type, text.format(kind=kind, other=other), answer, kind, options=options)
    answer = getattr(scene.lesion(kind), question_type)
    return SceneQuestion("VQA", question_type, text.format(kind=kind), answer, kind, options=options)


def describe(scene: Scene, stream: np.random.Generator, places: Mapping[str, str] | None = None) -> str:
    """Return a scene in words: as often as not a caption, else other sentences or bare keywords, in any order.

    Args:
        scene: what is true.
        stream: source of the form and the order.
        places: where each kind lies, in words; it is added to each lesion.
    """
    lesions = [scene.lesions[number] for number in stream.permutation(len(scene.lesions))]
    at = {lesion.kind: f" at {places[lesion.kind]}" if places else "" for lesion in lesions}
    findings = [lesion.finding + at[lesion.kind] for lesion in lesions]
    form = stream.random()
    if form < 0.4:
        return f"A {scene.modality} showing {join_words(findings)}."
    if form < 0.6:
        rest = "".join(f" There is also {finding}." for finding in findings[1:])
        return choose(stream, _SENTENCES).format(modality=scene.modality, first=findings[0], rest=rest)
    groups = [[lesion.kind, *(getattr(lesion, name) for name in ATTRIBUTES)] for lesion in lesions]
    inside, between = (SEPARATORS[number] for number in stream.permutation(len(SEPARATORS))[:2])
    parts = [
        inside.join(group[number] for number in stream.permutation(len(group))) + at[lesion.kind]
        for lesion, group in zip(lesions, groups, strict=True)
    ]
    parts.insert(int(stream.integers(len(parts) + 1)), scene.modality)
    return between.join(parts)


def scene_text_records(
    count: int,
    seed: int,
    lesions: Sequence[int] = (2,),
    places: Callable[[Scene], Mapping[str, str]] | None = None,
    short: bool = False,
    masks: bool = False,
    regions: bool = False,
    somewhere: str = SOMEWHERE,
) -> list[dict[str, Any]]:
    """Conversations without images that teach to read about scenes: a description and a question, or a repetition.

    Args:
        count: number of conversations.
        seed: seed of the scenes described.
        lesions: numbers of lesions; see :func:`make_scene`.
        places: gives the words for where each kind lies, such as a box in a notation; they stand in the description and
            in the answers. Without, an answer says ``somewhere`` where ``<BOX>`` stands, so that the words around it
            are learnt.
        short: see :func:`ask`.
        masks: ask for masks, too; the answer says ``somewhere`` where ``<SEG>`` stands.
        regions: ask for the kind of a lesion that the question describes where ``<region></region>`` stands.
        somewhere: the word for a place. A letter becomes one token with the space before it, which an added word cannot
            replace: the model then has to learn to say the space alone. A number leaves the space a token.

    Returns:
        Records in the form of LLaVA's, ``{"id", "conversations": [human, gpt]}``. The description stands where an image
        would: alone (the answer is then the caption), or before a question in the very words of
        :func:`scene_questions`.
    """
    records = []
    types = (*_TAUGHT, *(("kind", "kind") if places else ()), *(("mask", "mask") if masks else ()))
    types += ("region", "region", "region") if regions else ()
    for index in range(count):
        scene = make_scene(seed, index, lesions)
        stream = random_stream(seed, index, TEXT)
        at = places(scene) if places else None
        human = describe(scene, stream, at)
        if stream.random() < 0.1:
            question = SceneQuestion("CAP", "caption", "", scene.caption)
        else:
            question_type = choose(stream, types)
            absent = question_type in ("box", "mask") and stream.random() < 0.25
            question = ask(scene, question_type, stream, choose(stream, scene.absent) if absent else "", short)
            human += choose(stream, ("\n", "\n\n", " "))
            if question.regions:
                lesion = scene.lesion(question.kind)
                words = [lesion.kind, *(getattr(lesion, name) for name in ATTRIBUTES)]
                shown = choose(stream, (lesion.kind, lesion.finding, " ".join(stream.permutation(words).tolist())))
                question = replace(question, text=question.text.replace(REGION_TEXT, shown))
        question = _in_words(question, at, somewhere)
        turns = conversation(human + question.text, question.answer)
        records.append({"id": f"scene-text-{seed}-{index:06d}", "conversations": turns})
    return records


def _in_words(question: SceneQuestion, places: Mapping[str, str] | None, somewhere: str) -> SceneQuestion:
    """Return a question with the words for a place instead of each ``<BOX>``."""
    answer = question.answer.replace(SEG, somewhere)
    if places is None:
        return replace(question, answer=answer.replace(BOX, somewhere))
    for kind in question.boxes or ():
        answer = answer.replace(BOX, places[kind], 1)
    answer = answer.replace(BOX, NOT_SEEN)
    return replace(question, text=question.text.replace(BOX, places.get(question.kind, "")), answer=answer)
