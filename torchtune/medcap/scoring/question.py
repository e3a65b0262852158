"""What is asked and what is scored: questions with their targets, and answers to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from medcap.data.boxes.box import Box, Size
from medcap.data.outputs import NOTHING, Outputs

if TYPE_CHECKING:
    from torchtune.data import Message

    from medcap.data.images.reference import ImageRef
    from medcap.data.regions.region import Region

# The fields that tables split the scores by.
GROUPS = ("modality", "question_type", "answer_type", "organ")
# Further fields of ``Question.meta``: the kind of question (CLS, REG, REC, CAP, VG, ...), whose image it is, the name
# of the object that is asked for, and what a judge reads in the image's place.
FACTS = ("task", "patient", "phrase", "context")
# Between the options of a reference where several are right; no option of a known benchmark has a semicolon.
BETWEEN_OPTIONS = "; "
_REGION = "<region></region>"
_WORDS = ("text", "region")  # parts of a turn


@dataclass(frozen=True)
class Question:
    """One question and its targets. A further kind of target is one more field here.

    Attributes:
        id: unique in its benchmark or file.
        messages: the turns before the answer; image parts hold references whose paths an ``ImageReader`` resolved.
            Empty in a file of answers, where only ``words`` are known.
        references: accepted answers or captions, at least one; a protocol that knows only one takes the first.
        options: options of a multiple-choice question, in their order, without empty ones.
        answer_type: ``OPEN``, ``CLOSED``, or empty where the benchmark does not say.
        meta: further text fields, such as modality, question_type, organ; an ``answer_type`` among them is the one
            that tables show.
        problem: why this question cannot be asked; it then counts as a failure, in every denominator.
        words: the question where there are no turns.
        image_names: the images where there are no turns, as the file of answers names them.
        columns: the options with "" for each column that holds none; empty where every column holds one.
        boxes: the boxes that are asked for; empty where the object is absent, None where no boxes are asked for.
        masks: the masks that are asked for, None for an object that is absent; None where no masks are asked for.
        mask_labels: label of each of ``masks``, also of an absent one; empty where the regions have them.
        image_size: width and height of the original image in pixels, where it is known.
    """

    id: str
    messages: Sequence[Message]
    references: tuple[str, ...]
    options: tuple[str, ...] = ()
    answer_type: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None
    words: str = ""
    image_names: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    boxes: tuple[Box, ...] | None = None
    image_size: Size | None = None
    masks: tuple[Region | None, ...] | None = None
    mask_labels: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The words of the last turn."""
        return message_text(self.messages[-1]) if self.messages else self.words

    @property
    def images(self) -> list[ImageRef]:
        """The images in the order of the turns."""
        return [image for message in self.messages for image in message_images(message)]

    @property
    def image(self) -> ImageRef | None:
        """The first image; None where there is none."""
        return next(iter(self.images), None)

    @property
    def image_entries(self) -> list[str]:
        """What files of answers call the images, in order."""
        return [str(image) for image in self.images] or list(self.image_names)

    @property
    def image_fields(self) -> dict[str, Any]:
        """The images as a row of a JSON file holds them: ``image`` is the first; ``images`` are all of several."""
        entries = self.image_entries
        return {"image": entries[0] if entries else None} | ({"images": entries} if len(entries) > 1 else {})

    @property
    def image_paths(self) -> list[str]:
        """The files of the images, in order."""
        return [image.path for image in self.images] or list(self.image_names)

    @property
    def cluster(self) -> str:
        """What its row is drawn with in intervals: the patient where it is known, otherwise the image."""
        if self.meta.get("patient"):
            return f"patient {self.meta['patient']}"
        return f"image {'; '.join(self.image_paths)}" if self.image_paths else f"row {self.id}"

    @property
    def image_cell(self) -> str:
        """The images as a cell of a table holds them."""
        return "; ".join(self.image_entries)

    @property
    def reference(self) -> str | list[str]:
        """The references as a file holds them: the text of one, or a list."""
        return self.references[0] if len(self.references) == 1 else list(self.references)

    @property
    def groups(self) -> dict[str, str]:
        """Its value in each of ``GROUPS`` that it has."""
        values = {"answer_type": self.answer_type, **self.meta}
        return {name: values[name] for name in GROUPS if values.get(name)}

    @property
    def facts(self) -> dict[str, str]:
        """Its value in each of ``GROUPS`` and ``FACTS`` that it has."""
        return self.groups | {name: self.meta[name] for name in FACTS if self.meta.get(name)}

    @property
    def lettered(self) -> tuple[str, ...]:
        """The options by their letter, A first; "" where a letter has none."""
        return self.columns or self.options


@dataclass(frozen=True)
class Answer:
    """One answer, of any model, ready to be scored.

    Attributes:
        question: what was asked.
        prediction: what was answered; "" where there is no answer, which is a failure.
        outputs: results of the model beside its words, such as boxes.
        bad_boxes: entries of the file's ``boxes`` that are no boxes, such as five numbers.
        bad_masks: place among ``outputs.masks`` of each that cannot be read, and why.
        verdict: what a judge said of it, ``RIGHT``, ``WRONG`` or ``UNPARSED``, as the file has it; "" where there is
            none.
        ratings: (score of the reference, score of the answer) that a judge gave, for each order in which it read them.
    """

    question: Question
    prediction: str
    outputs: Outputs = NOTHING
    bad_boxes: tuple[str, ...] = ()
    bad_masks: tuple[tuple[int, str], ...] = ()
    verdict: str = ""
    ratings: tuple[tuple[float, float], ...] = ()

    @property
    def failed(self) -> bool:
        """Whether there is no answer: neither words nor a list of boxes or masks."""
        return not self.prediction.strip() and self.outputs.boxes is None and self.outputs.masks is None


def message_text(message: Message) -> str:
    """Return a turn's words without its images, stripped; a region is ``<region></region>``."""
    parts = [part for part in message.content if part["type"] in _WORDS]
    return "".join(_REGION if part["type"] == "region" else part["content"] for part in parts).strip()


def message_images(message: Message) -> list[ImageRef]:
    """Return a turn's images, in order."""
    return [part["content"] for part in message.content if part["type"] == "image"]
