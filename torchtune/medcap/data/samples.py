"""One conversation -> one sample: what is computed of it, and what is to be predicted where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medcap.data.added_tokens import AddedTokens
from medcap.data.answer_targets import BoxTarget, MaskTarget
from medcap.data.boxes.box import AbsentBox, Box
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.labels_and_image_tokens import LabelRules, TokenizedChat
from medcap.data.packing import Sample
from medcap.data.question_regions import QuestionRegion
from medcap.data.regions.region import Region
from medcap.data.row_layouts import Record
from medcap.errors import UserError
from medcap.modules.label_loss import IGNORE_INDEX
from medcap.plurals import counted


@dataclass(frozen=True)
class _Kind:
    """What words of answers stand for.

    Attributes:
        name: what one is called.
        several: what some of them are called.
        component: the component that gives it.
        word: added words -> the word, empty for a model that gives none.
        of_record: those of a record, in the order of the words.
        instead: what to do where the model cannot give it.
        in_question: what to do where a question has the word.
    """

    name: str
    several: str
    component: str
    word: Callable[[AddedTokens], str]
    of_record: Callable[[Record], tuple[Any, ...]]
    instead: str
    in_question: str


_BOXES = _Kind(
    "box",
    "boxes",
    "box_decoder",
    lambda added: added.box_word,
    lambda record: record.boxes,
    "write them out with dataset.box_answer=text",
    "write the box out as numbers",
)
_MASKS = _Kind(
    "mask",
    "masks",
    "mask_decoder",
    lambda added: added.mask_word,
    lambda record: record.masks,
    "leave the row out",
    "name the region of a question under 'regions'",
)


def tokenize_record(record: Record, name: str, tokenizer: ChatTokenizer, max_seq_len: int, rules: LabelRules) -> Sample:
    """One record -> one sample.

    Raises:
        UserError: if truncation cuts an image or leaves nothing to learn, or boxes or masks are not those of the words.
    """
    boxes, masks = (_checked(record, tokenizer, kind) for kind in (_BOXES, _MASKS))
    return make_sample(tokenizer.tokenize(record.messages, max_seq_len, rules), name, tokenizer, boxes, masks)


def make_sample(
    chat: TokenizedChat,
    name: str,
    tokenizer: ChatTokenizer,
    boxes: Sequence[Box | AbsentBox] = (),
    masks: Sequence[Region | None] = (),
) -> Sample:
    """One tokenized conversation -> one sample.

    Args:
        chat: the conversation.
        name: name of the sample.
        tokenizer: tokenizer that made it.
        boxes: the boxes that its answers name by the box word, in order; those of words that were cut off are left out.
        masks: the masks that they name by the mask word likewise.

    Raises:
        UserError: if nothing comes before the only token to learn, or a box or mask lies on another image than the
            last one before its word.
    """
    labels = np.asarray(chat.labels, dtype=np.int32)
    last = int(np.flatnonzero(labels != IGNORE_INDEX)[-1])
    if last == 0:
        raise UserError("no token is left to learn: nothing comes before the only one")
    # Nothing is predicted from the last label, so neither it nor the tokens after it are computed.
    tokens = np.asarray(chat.tokens[:last], dtype=np.int32)
    image_tokens = np.flatnonzero(tokens == tokenizer.image_token_id)
    num_images = int(np.searchsorted(np.cumsum(chat.image_lengths), len(image_tokens), side="right"))
    placed = _placed(labels, boxes, chat, tokenizer, _BOXES) if boxes else []
    outlined = _placed(labels, masks, chat, tokenizer, _MASKS) if masks else []
    return Sample(
        tokens=tokens,
        targets=labels[1 : last + 1],
        images=tuple(chat.images[:num_images]),
        image_lengths=tuple(chat.image_lengths[:num_images]),
        images_end=int(image_tokens[-1]) + 1 if len(image_tokens) else 0,
        name=name,
        boxes=tuple(
            BoxTarget(position, box.edges if isinstance(box, Box) else None, image) for position, image, box in placed
        ),
        masks=tuple(MaskTarget(position, region, image) for position, image, region in outlined),
        regions=question_regions(tokens, chat.regions, num_images, tokenizer),
    )


def question_regions(
    tokens: np.ndarray, regions: Sequence[Region], num_images: int, tokenizer: ChatTokenizer
) -> tuple[QuestionRegion, ...]:
    """Find the placeholders of the regions that questions name.

    Args:
        tokens: ``[n]`` of a sample or a prompt.
        regions: those of the whole conversation, in order; those that were cut off with their turns are left out.
        num_images: images that are shown.
        tokenizer: tokenizer that made the tokens.

    Raises:
        UserError: if one lies on an image that is not shown.
    """
    if not regions or tokenizer.added is None:
        return ()
    length = len(tokenizer.added.region_tokens)
    # Each region has the same number of placeholders, so two that stand side by side are told apart.
    positions = np.flatnonzero(tokens == tokenizer.region_token_id)[::length].tolist()
    # [Contract] the n-th region fills the n-th run of placeholders.
    named = tuple(QuestionRegion(*one, one[1].image) for one in zip(positions, regions, strict=False))
    for one in named:
        if one.image >= num_images:
            raise UserError(f"a region lies on image {one.image}, but the question shows {num_images}, numbered from 0")
    return named


def _checked(record: Record, tokenizer: ChatTokenizer, kind: _Kind) -> tuple[Any, ...]:
    """Return the boxes or masks of a record's answers, one for each word that stands for one.

    Raises:
        UserError: for another number of them than of words, for the word in a question, and for those of a model that
            gives none.
    """
    given, word = kind.of_record(record), kind.word(tokenizer.added) if tokenizer.added else ""
    number = counted(len(given), kind.name, kind.several)
    if not word:
        if given:
            raise UserError(
                f"its answers name {number} by a word, but the model gives none: add {kind.component}, or"
                f" {kind.instead}"
            )
        return ()
    asked, answered = (
        sum(message.text_content.count(word) for message in record.messages if (message.role == "assistant") is answers)
        for answers in (False, True)
    )
    if asked:
        raise UserError(f"{word} stands in a question: it is a word of answers; {kind.in_question}")
    # [Contract] the n-th box belongs to the n-th word: a missing one would teach every later word another's box.
    if answered != len(given):
        raise UserError(f"its answers have {answered} {word} but {number}: give each word its {kind.name}")
    return given


def _placed(
    labels: np.ndarray, given: Sequence[Any], chat: TokenizedChat, tokenizer: ChatTokenizer, kind: _Kind
) -> list[tuple[int, int, Any]]:
    """Return the token that predicts each learnt word, the image that it is about, and its box or mask."""
    assert tokenizer.added is not None, "there is a word"
    tokens = np.asarray(chat.tokens)
    word = tokenizer.added.ids[kind.word(tokenizer.added)]
    words, image_tokens = (np.flatnonzero(tokens == id) for id in (word, tokenizer.image_token_id))
    firsts = image_tokens[np.cumsum([0, *chat.image_lengths[:-1]])] if chat.images else image_tokens
    placed = []
    # After truncation there may be fewer words.
    for position, one in zip(words.tolist(), given, strict=False):
        image = int(np.searchsorted(firsts, position)) - 1
        if image < 0:
            raise UserError(f"an answer has a {kind.name}, but no image comes before it")
        if one is not None and image != one.image:
            raise UserError(
                f"a {kind.name} lies on image {one.image + 1}, but the model gives them on the last image before its"
                f" answer, here {image + 1}: {kind.instead}"
            )
        if labels[position] != IGNORE_INDEX:
            placed.append((position - 1, image, one))
    return placed
