"""What the words of an answer stand for, while it is decoded: a box or a mask for each such word that is chosen."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from medcap.data.added_tokens import WrittenWord
from medcap.data.boxes.box import Box
from medcap.data.boxes.style import NOT_SEEN, BoxStyle
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.outputs import NOTHING, Outputs
from medcap.data.regions.region import Region, RunLength
from medcap.data.regions.run_length import encode
from medcap.data.regions.shown import original_mask
from medcap.errors import UserError
from medcap.generation.decoding.box_outlines import BoxOutliner
from medcap.generation.decoding.finite import check_finite
from medcap.generation.decoding.prefix_tree import Prompt, Tree
from medcap.generation.decoding.seen_image import SeenImage
from medcap.models.box_decoder import BoxDecoder
from medcap.models.mask_decoders.base import MaskDecoder
from medcap.models.vision_language_model import VisionLanguageModel


class WordReader(Protocol):
    """Gives what one word stands for.

    Attributes:
        field: the field of ``Outputs`` that holds it.
    """

    field: str

    def read(self, hidden: Tensor, image: SeenImage, number: int) -> tuple[str, list[Any]]:
        """Read it off a hidden state.

        Args:
            hidden: ``[d]`` before the final norm, which predicted the word.
            image: the last image of the prompt.
            number: number of the image in the conversation, from 0.

        Returns:
            The text that stands in the place of the word, and what it stands for: one thing, or nothing.

        Raises:
            UserError: if it computes numbers that are not finite.
        """
        ...


class BoxReader:
    """Reads boxes off a box head.

    Args:
        decoder: the head.
        style: how boxes are written in the texts of the run.
    """

    field = "boxes"

    def __init__(self, decoder: BoxDecoder, style: BoxStyle) -> None:
        self._decoder, self._style = decoder, style

    def read(self, hidden: Tensor, image: SeenImage, number: int) -> tuple[str, list[Box]]:
        """See :meth:`WordReader.read`; a box in what was laid around the image is nothing."""
        assert image.patches is not None, "the head reads them"
        edges, seen = self._decoder(hidden[None], image.patches[None])  # [1, 4], [1]
        check_finite(self._decoder.label, edges, seen)
        left, top, right, bottom, certainty = torch.cat([edges[0], seen]).tolist()
        if certainty < 0:
            return NOT_SEEN, []
        original = image.frame.to_original((left, top, right, bottom))
        if original is None:
            return "", []
        box = Box(original, image=number)
        return self._style.write(box, image.frame.size, image.frame.fit), [box]


class MaskReader:
    """Reads masks off a mask decoder, at the original image's size.

    Args:
        decoder: the decoder.
        word: the word.
    """

    field = "masks"

    def __init__(self, decoder: MaskDecoder, word: str) -> None:
        self._decoder, self._word = decoder, word

    def read(self, hidden: Tensor, image: SeenImage, number: int) -> tuple[str, list[Region | None]]:
        """See :meth:`WordReader.read`; None stands for what the image does not show."""
        own = self._decoder.own_picture is not None
        picture, frame = (image.own_picture, image.own_frame) if own else (image.picture, image.frame)
        assert picture is not None and frame is not None, "the decoder reads it"
        which = torch.zeros(1, dtype=torch.int64, device=hidden.device)
        patches = None if image.patches is None else image.patches[None]
        found = self._decoder(hidden[None], patches, picture[None], which)
        # [Contract] NaN is neither inside nor outside: it would be told as an object that the image does not show.
        check_finite(self._decoder.label, found.logits, found.seen)
        if found.seen.item() < 0:
            return NOT_SEEN, [None]
        mask = original_mask(found.logits[0], frame)
        if not mask.any():
            return NOT_SEEN, [None]
        written = encode(mask)
        height, width = written["size"]
        return self._word, [Region(RunLength((height, width), written["counts"]), image=number)]


@dataclass
class _Answer:
    """An answer: the image that it is about, its words so far that stand for something, and what they stand for."""

    image: SeenImage | None
    words: list[WrittenWord] = field(default_factory=list)
    found: dict[str, list[Any]] = field(default_factory=dict)


class AnswerWords:
    """Gives boxes and masks where answers name them.

    They lie on the last image of its prompt. Where the image does not show what is asked, the text says so in the place
    of the word. The word of an answer without an image stands for nothing, and the text is without it.

    Args:
        readers: token id of each word -> what it stands for.
        outliner: gives the masks of an answer's boxes; None gives none.
    """

    def __init__(self, readers: Mapping[int, WordReader], outliner: BoxOutliner | None = None) -> None:
        self._readers, self._outliner = readers, outliner
        self._answers: dict[Prompt, _Answer] = {}

    def begin(self, trees: Sequence[Tree]) -> None:
        """Take in prompts whose images are encoded."""
        self._answers |= {prompt: _Answer(tree.last_image) for tree in trees for prompt in tree.prompts}

    def look(self, rows: Sequence[Prompt | None], chosen: Sequence[int], hidden: Tensor) -> dict[int, str]:
        """Look at the image for each answer whose next token is such a word.

        Args:
            rows: prompt of each row.
            chosen: next token of each row.
            hidden: ``[R, d]`` hidden states before the final norm that predicted them.

        Returns:
            For each row whose word nothing could be computed for, why not.
        """
        failures: dict[int, str] = {}
        for row, (prompt, token) in enumerate(zip(rows, chosen, strict=True)):
            if prompt is None or token not in self._readers:
                continue
            answer = self._answers[prompt]
            reader = self._readers[token]
            found = answer.found.setdefault(reader.field, [])
            text = ""
            if answer.image is not None:
                # One at a time, so that it does not depend on the others of its batch.
                try:
                    with torch.no_grad():
                        text, values = reader.read(hidden[row], answer.image, len(prompt.images) - 1)
                    found += values
                except UserError as error:
                    failures[row] = str(error)
            answer.words.append(WrittenWord(token, text))
        return failures

    def written(self, prompt: Prompt, token: int) -> int:
        """Return the token that was chosen last in an answer; a word that stands for something has its text."""
        return self._answers[prompt].words[-1] if token in self._readers else token

    def end(
        self, prompt: Prompt, tokens: Sequence[int], decode: Callable[[list[int]], str]
    ) -> tuple[list[int], Outputs]:
        """End an answer.

        Args:
            prompt: prompt of the answer.
            tokens: tokens of the answer.
            decode: tokens -> text.

        Returns:
            The tokens, with the texts of their words; and what the words stand for.

        Raises:
            UserError: if a SAM that outlines boxes computes numbers that are not finite.
        """
        answer = self._answers.pop(prompt)
        words = iter(answer.words)
        written = [next(words) if token in self._readers else token for token in tokens]
        found = {name: tuple(values) for name, values in answer.found.items()}
        outputs = Outputs(**found) if found else NOTHING
        if self._outliner is not None and answer.image is not None:
            outputs = self._outliner.outline(decode(written), outputs, answer.image, len(prompt.images) - 1)
        return written, outputs

    def drop(self, prompt: Prompt) -> None:
        """Forget an answer that was given up."""
        self._answers.pop(prompt, None)


def answer_words(
    model: VisionLanguageModel, tokenizer: ChatTokenizer, style: BoxStyle, outliner: BoxOutliner | None = None
) -> AnswerWords | None:
    """Return what gives the boxes and masks of a model's answers; None for a model that gives neither.

    Args:
        model: the model.
        tokenizer: knows the words.
        style: how boxes are written in the texts of the run.
        outliner: gives the masks of an answer's boxes; None gives none.
    """
    added, readers = tokenizer.added, dict[int, WordReader]()
    if added is None:
        return None if outliner is None else AnswerWords({}, outliner)
    boxes, masks = (model.components.get(kind.name) for kind in (BoxDecoder, MaskDecoder))
    if isinstance(boxes, BoxDecoder) and added.box_id is not None:
        readers[added.box_id] = BoxReader(boxes, style)
    if isinstance(masks, MaskDecoder) and added.mask_id is not None:
        readers[added.mask_id] = MaskReader(masks, added.mask_word)
    return AnswerWords(readers, outliner) if readers or outliner is not None else None
