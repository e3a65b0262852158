"""Questions about the objects that are marked on an image: where one is, what lies in a box, what there is at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from medcap.data.boxes.box import Box, Size
from medcap.data.boxes.notations import write_box
from medcap.datasets.published.fields import ask_for, without_article
from medcap.datasets.published.marked import AbsentObjects, MarkedImage, boxes_of
from medcap.errors import UserError

KINDS = ("REC", "REG", "DET")
BOX = "<BOX>"
NONE = "none"  # the answer about an object that is not there
WHERE_OBJECT, WHERE_FINDING = "Where is the {}?", "Where is this finding: {}"
_NAME, _DETECT = "What is in the box {}?", "Which objects does the image show, and where?"
_IN_QUESTIONS = "thousandths"


@dataclass(frozen=True, slots=True)
class BoxQuestion:
    """A question about the boxes of an image.

    Attributes:
        task: REC (where is it), REG (what lies in the box) or DET (what is there, and where).
        question: the words.
        answer: the words; ``<BOX>`` stands for each of ``boxes`` unless a notation was chosen.
        boxes: in shares of the image; empty where nothing is there, None where no boxes are asked for.
        phrase: the object's name.
    """

    task: str
    question: str
    answer: str
    boxes: tuple[Box, ...] | None
    phrase: str = ""


@dataclass(frozen=True)
class Asking:
    """How images become questions.

    Attributes:
        kinds: which of ``KINDS``.
        where: question for an object's place, with ``{}`` for its name.
        notation: in which boxes are written into answers; None leaves ``<BOX>``.
        absent: objects that images do not show; None to ask about none.
        sentences: whether answers to REC are sentences, from which a language model learns when to say a box; otherwise
            the boxes alone, or ``none``.
    """

    kinds: Sequence[str] = ("REC",)
    where: str = WHERE_OBJECT
    notation: str | None = None
    absent: AbsentObjects | None = None
    sentences: bool = False

    def questions(
        self, image: MarkedImage, size: Size | None, leave_out: Callable[[str, str], None]
    ) -> list[BoxQuestion]:
        """Return an image's questions.

        Args:
            image: what is marked.
            size: of the image file; None where it is not there, so that boxes cannot be written into words.
            leave_out: called with the reason and the phrase of an object whose boxes are unusable.
        """
        found: list[tuple[str, tuple[Box, ...]]] = []
        for marked in image.objects:
            try:
                found.append((marked.phrase, boxes_of(marked, image, size)))
            except UserError as error:
                leave_out(str(error), marked.phrase)
        whole = len(found) == len(image.objects)
        missing = self.absent.of(image) if self.absent else []
        questions = []
        if "REC" in self.kinds:
            for phrase, boxes in [*found, *((phrase, ()) for phrase in missing)]:
                answer = self._located(phrase, boxes, size)
                questions.append(BoxQuestion("REC", ask_for(self.where, phrase), answer, boxes, phrase))
        if "REG" in self.kinds and size is not None:
            for phrase, boxes in found:
                for box in boxes:
                    words = write_box(box, self.notation or _IN_QUESTIONS, size)
                    questions.append(BoxQuestion("REG", _NAME.format(words), phrase, None))
        # An image of which one box cannot be used shows more than the answer would say.
        if "DET" in self.kinds and whole and (found or missing):
            boxes = tuple(replace(box, label=phrase) for phrase, its in found for box in its)
            questions.append(BoxQuestion("DET", _DETECT, self._answer(boxes, size), boxes))
        return questions

    def _located(self, phrase: str, boxes: Sequence[Box], size: Size | None) -> str:
        """Return the answer to where an object is; a finding that is asked for in a sentence is "it"."""
        if not self.sentences:
            return self._answer(boxes, size)
        named = self.where == WHERE_OBJECT
        phrase = without_article(phrase)
        if not boxes:
            return f"There is no {phrase}." if named else "The image does not show it."
        *first, last = (self._words(box, size) for box in boxes)
        places = f"{', '.join(first)} and {last}" if first else last
        return f"{f'The {phrase}' if named else 'It'} lies at {places}."

    def _answer(self, boxes: Sequence[Box], size: Size | None) -> str:
        return ", ".join(self._words(box, size) for box in boxes) or NONE

    def _words(self, box: Box, size: Size | None) -> str:
        if self.notation is None or size is None:
            return f"{box.label} {BOX}".strip()
        words = write_box(box, self.notation, size)
        return words if self.notation == "qwen" else f"{box.label} {words}".strip()
