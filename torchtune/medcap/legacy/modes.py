"""medcap 2024's ``vqa_type``: describe the image, then answer with the description in view.

Message sequences are those of custom_generate_func.py, lines 137-191, of myeongkyunkang/medcap at c8910f0.
"""

from __future__ import annotations

from dataclasses import dataclass

from torchtune.data import Message

from medcap.generation.prompt import user_message
from medcap.scoring.question import Question

MODES = ("no_cond_desc", "no_cond_desc_no_image", "cond_desc", "cond_desc_no_image", "omit")
NOTHING_SAID = "..."
_DESCRIBE = "Describe the image."
_DESCRIBE_TO_ANSWER = "Describe the image to answer the question: {question}"


@dataclass(frozen=True)
class Mode:
    """One ``vqa_type``.

    Args:
        name: one of ``MODES``. ``no_cond_desc`` describes each image once; ``cond_desc`` describes it for each
            question; ``..._no_image`` answers from the description alone; ``omit`` leaves the description out.
    """

    name: str

    @property
    def conditional(self) -> bool:
        """Whether the description is made for the question."""
        return self.name.startswith("cond_desc")

    @property
    def describes(self) -> bool:
        """Whether there is a description."""
        return self.name != "omit"

    @property
    def shows_image(self) -> bool:
        """Whether the image is there when the question is answered."""
        return not self.name.endswith("_no_image")

    @property
    def template(self) -> str:
        """The turns of both stages."""
        description = "user: {image}\nassistant: {description}"
        if self.conditional:
            asked = f"assistant: {NOTHING_SAID}\nuser: {_DESCRIBE_TO_ANSWER}"
            description = f"user: {{image}}\n{asked}\nassistant: {{description}}"
        said = "{description}" if self.describes else NOTHING_SAID
        first = "{image}" if self.shows_image else _DESCRIBE
        answer = f"user: {first}\nassistant: {said}\nuser: {{question}}\nassistant: "
        return f"{description}\n---\n{answer}" if self.describes else answer

    def description_turns(self, question: Question) -> list[Message]:
        """Ask for the description of all images of a question."""
        images = user_message(question.images)
        if not self.conditional:
            return [images]
        return [
            images,
            _assistant(NOTHING_SAID),
            user_message(text=_DESCRIBE_TO_ANSWER.format(question=question.text)),
        ]

    def answer_turns(self, question: Question, description: str) -> list[Message]:
        """Ask the question with all its images and their description in view."""
        shown = self.shows_image and question.images
        first = user_message(question.images) if shown else user_message(text=_DESCRIBE)
        return [first, _assistant(description), user_message(text=question.text)]


def _assistant(text: str) -> Message:
    return Message(role="assistant", content=text, masked=False)
