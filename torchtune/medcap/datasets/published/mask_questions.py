"""Questions about the masks of an image: where one object is, where several are, and what is not there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medcap.data.regions.region import Region, regions_as_json
from medcap.datasets.published.fields import ask_for
from medcap.datasets.published.marked import AbsentObjects
from medcap.datasets.published.outlined import OutlinedImage

KINDS = ("SEG", "ALL")
PHRASINGS = (
    "Segment the {}.",
    "Outline the {}.",
    "Mark the pixels of the {}.",
    "Can you segment the {} in this image?",
    "Please give the mask of the {}.",
)
SEG = "<SEG>"
ABSENT_ANSWERS = ("words", "mask")


@dataclass(frozen=True, slots=True)
class MaskQuestion:
    """A question about the masks of an image.

    Attributes:
        task: SEG (one object) or ALL (every object of the image).
        question: the words.
        answer: the words, with ``<SEG>`` for each mask.
        masks: as a row holds them; empty where the answer says in words that nothing is there.
        phrase: the object's name; "" for several.
    """

    task: str
    question: str
    answer: str
    masks: list[Any]
    phrase: str = ""


@dataclass(frozen=True)
class Asking:
    """How images become questions.

    Attributes:
        kinds: which of ``KINDS``.
        phrasings: questions with ``{}`` for the object, of which each question has one.
        absent: objects that images do not show; None to ask about none.
        absent_answer: ``words`` answers that there is no such object; ``mask`` names it with ``<SEG>``, whose mask is
            null, so that a mask decoder learns to draw nothing.
        seed: decides the phrasings, together with the image's name and the object.
    """

    kinds: Sequence[str] = ("SEG",)
    phrasings: Sequence[str] = PHRASINGS
    absent: AbsentObjects | None = None
    absent_answer: str = "words"
    seed: int = 0

    def questions(self, image: OutlinedImage) -> list[MaskQuestion]:
        """Return an image's questions; those about absent objects come last."""
        found = {phrase: Region(shape, phrase) for phrase, shape in image.masks.items()}
        name = image.image.names[0]
        questions = []
        if "SEG" in self.kinds:
            for phrase, region in found.items():
                asked = self._ask(phrase, name)
                questions.append(MaskQuestion("SEG", asked, f"{phrase} {SEG}.", regions_as_json([region]), phrase))
        if "ALL" in self.kinds and found:
            asked = self._ask(_joined(list(found)), name)
            answer = ", ".join(f"{phrase} {SEG}" for phrase in found)
            questions.append(MaskQuestion("ALL", asked, f"{answer}.", regions_as_json(found.values())))
        for phrase in self.absent.of(image.image) if self.absent and "SEG" in self.kinds else ():
            named = self.absent_answer == "mask"
            answer = f"{phrase} {SEG}." if named else f"There is no {phrase}."
            masks = [{"mask": None, "label": phrase}] if named else []
            questions.append(MaskQuestion("SEG", self._ask(phrase, name), answer, masks, phrase))
        return questions

    def _ask(self, words: str, name: str) -> str:
        return ask_for(random.Random(f"{self.seed} {name} {words}").choice(self.phrasings), words)


def _joined(phrases: Sequence[str]) -> str:
    return " and ".join([", the ".join(phrases[:-1]), f"the {phrases[-1]}"]) if len(phrases) > 1 else phrases[0]
