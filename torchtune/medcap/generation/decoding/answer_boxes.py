"""The boxes of answers while they are decoded: one for each box word that is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from medcap.data.added_tokens import WrittenWord
from medcap.data.boxes.box import AbsentBox, Box
from medcap.data.boxes.style import NOT_SEEN, BoxStyle
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.generation.decoding.prefix_tree import Prompt, Tree
from medcap.generation.decoding.seen_image import SeenImage
from medcap.models.box_decoder import BoxDecoder
from medcap.models.vision_language_model import VisionLanguageModel


@dataclass
class _Answer:
    """An answer: the image that its boxes lie on, the box words so far, and their boxes."""

    image: SeenImage | None
    words: list[WrittenWord] = field(default_factory=list)
    boxes: list[Box] = field(default_factory=list)


class AnswerBoxes:
    """Gives boxes where answers name them.

    A box lies on the last image of its prompt. Where the head finds that the image does not show what is asked, the
    text says so in the place of the box. A box word of an answer without an image, or whose box lies in what was laid
    around the image, has no box, and the text is without the word.

    Args:
        decoder: box head of the model.
        token: id of the box word.
        style: how boxes are written in the texts of the run.
    """

    def __init__(self, decoder: BoxDecoder, token: int, style: BoxStyle) -> None:
        self._decoder, self._token, self._style = decoder, token, style
        self._answers: dict[Prompt, _Answer] = {}

    def begin(self, trees: Sequence[Tree]) -> None:
        """Take in prompts whose images are encoded."""
        self._answers |= {prompt: _Answer(tree.last_image) for tree in trees for prompt in tree.prompts}

    def look(self, rows: Sequence[Prompt | None], chosen: Tensor, hidden: Tensor) -> None:
        """Give a box for each answer whose next token is the box word.

        Args:
            rows: prompt of each row.
            chosen: ``[R]`` int64, next token of each row.
            hidden: ``[R, d]`` hidden states before the final norm that predicted them.
        """
        for row in (chosen == self._token).nonzero().flatten().tolist():
            prompt = rows[row]
            if prompt is not None:
                answer = self._answers[prompt]
                # One at a time, so that a box does not depend on the others of its batch.
                box = None if answer.image is None else self._box(hidden[row], answer.image, len(prompt.images) - 1)
                text = NOT_SEEN if isinstance(box, AbsentBox) else ""
                if isinstance(box, Box) and answer.image is not None:
                    frame = answer.image.frame
                    text = self._style.write(box, frame.size, frame.fit)
                    answer.boxes.append(box)
                answer.words.append(WrittenWord(self._token, text))

    def written(self, prompt: Prompt, token: int) -> int:
        """Return the token that was chosen last in an answer; a box word has its text."""
        return self._answers[prompt].words[-1] if token == self._token else token

    def end(self, prompt: Prompt, tokens: Sequence[int]) -> tuple[list[int], tuple[Box, ...] | None]:
        """End an answer.

        Args:
            prompt: prompt of the answer.
            tokens: tokens of the answer.

        Returns:
            The tokens, with the texts of their box words; and the boxes, None if the answer has no box word.
        """
        answer = self._answers.pop(prompt)
        words = iter(answer.words)
        written = [next(words) if token == self._token else token for token in tokens]
        return written, tuple(answer.boxes) if answer.words else None

    def drop(self, prompt: Prompt) -> None:
        """Forget an answer that was given up."""
        self._answers.pop(prompt, None)

    def _box(self, hidden: Tensor, image: SeenImage, number: int) -> Box | AbsentBox | None:
        """``[d]`` -> the box on the original image; None if it lies in what was laid around it."""
        assert image.patches is not None, "the head reads them"
        with torch.no_grad():
            edges, seen = self._decoder(hidden[None], image.patches[None])  # [1, 4], [1]
        left, top, right, bottom, certainty = torch.cat([edges[0], seen]).tolist()
        if certainty < 0:
            return AbsentBox(image=number)
        original = image.frame.to_original((left, top, right, bottom))
        return None if original is None else Box(original, image=number)


def answer_boxes(model: VisionLanguageModel, tokenizer: ChatTokenizer, style: BoxStyle) -> AnswerBoxes | None:
    """Return what gives the boxes of a model's answers; None for a model without a box head.

    Args:
        model: the model.
        tokenizer: knows the box word.
        style: how boxes are written in the texts of the run.
    """
    head, added = model.components.get(BoxDecoder.name), tokenizer.added
    if not isinstance(head, BoxDecoder) or added is None or added.box_id is None:
        return None
    return AnswerBoxes(head, added.box_id, style)
