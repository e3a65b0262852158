"""One conversation -> one sample: what is computed of it, and what is to be predicted where."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medcap.data.boxes.box import AbsentBox, Box
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.labels_and_image_tokens import LabelRules, TokenizedChat
from medcap.data.packing import BoxTarget, Sample
from medcap.data.row_layouts import Record
from medcap.errors import UserError
from medcap.modules.label_loss import IGNORE_INDEX


def tokenize_record(record: Record, name: str, tokenizer: ChatTokenizer, max_seq_len: int, rules: LabelRules) -> Sample:
    """One record -> one sample.

    Raises:
        UserError: if truncation cuts an image or leaves nothing to learn, or the boxes are not those of the words.
    """
    boxes = _checked_boxes(record, tokenizer)
    return make_sample(tokenizer.tokenize(record.messages, max_seq_len, rules), name, tokenizer, boxes)


def make_sample(
    chat: TokenizedChat, name: str, tokenizer: ChatTokenizer, boxes: Sequence[Box | AbsentBox] = ()
) -> Sample:
    """One tokenized conversation -> one sample.

    Args:
        chat: the conversation.
        name: name of the sample.
        tokenizer: tokenizer that made it.
        boxes: the boxes that its answers name by the box word, in order; those of words that were cut off are left out.

    Raises:
        UserError: if nothing comes before the only token to learn, or a box lies on another image than the last one
            before its word.
    """
    labels = np.asarray(chat.labels, dtype=np.int32)
    last = int(np.flatnonzero(labels != IGNORE_INDEX)[-1])
    if last == 0:
        raise UserError("no token is left to learn: nothing comes before the only one")
    # Nothing is predicted from the last label, so neither it nor the tokens after it are computed.
    tokens = np.asarray(chat.tokens[:last], dtype=np.int32)
    image_tokens = np.flatnonzero(tokens == tokenizer.image_token_id)
    num_images = int(np.searchsorted(np.cumsum(chat.image_lengths), len(image_tokens), side="right"))
    return Sample(
        tokens=tokens,
        targets=labels[1 : last + 1],
        images=tuple(chat.images[:num_images]),
        image_lengths=tuple(chat.image_lengths[:num_images]),
        images_end=int(image_tokens[-1]) + 1 if len(image_tokens) else 0,
        name=name,
        boxes=_targets(labels, boxes, chat, tokenizer) if boxes else (),
    )


def _checked_boxes(record: Record, tokenizer: ChatTokenizer) -> tuple[Box | AbsentBox, ...]:
    """Return the boxes of a record's answers, one for each box word in them.

    Raises:
        UserError: for another number of boxes than of words, for the word in a question, and for boxes of a model that
            gives none.
    """
    word = tokenizer.added.box_word if tokenizer.added else ""
    if not word:
        if record.boxes:
            raise UserError(
                f"its answers name {len(record.boxes)} box(es) by a word, but the model gives none: add box_decoder, or"
                " write them out with dataset.box_answer=text"
            )
        return ()
    asked, answered = (
        sum(message.text_content.count(word) for message in record.messages if (message.role == "assistant") is answers)
        for answers in (False, True)
    )
    if asked:
        raise UserError(f"{word} stands in a question: it is a word of answers; write the box out as numbers")
    # [Contract] the n-th box belongs to the n-th word: a missing one would teach every later word another's box.
    if answered != len(record.boxes):
        raise UserError(f"its answers have {answered} {word} but {len(record.boxes)} box(es): give each word its box")
    return record.boxes


def _targets(
    labels: np.ndarray, boxes: Sequence[Box | AbsentBox], chat: TokenizedChat, tokenizer: ChatTokenizer
) -> tuple[BoxTarget, ...]:
    assert tokenizer.added is not None, "there is a box word"
    tokens = np.asarray(chat.tokens)
    words, image_tokens = (np.flatnonzero(tokens == id) for id in (tokenizer.added.box_id, tokenizer.image_token_id))
    firsts = image_tokens[np.cumsum([0, *chat.image_lengths[:-1]])] if chat.images else image_tokens
    targets = []
    # After truncation there may be fewer words.
    for position, box in zip(words.tolist(), boxes, strict=False):
        image = int(np.searchsorted(firsts, position)) - 1
        if image != box.image:
            raise UserError(
                f"a box lies on image {box.image + 1}, but the model gives boxes on the last image before its answer,"
                f" here {image + 1}: write it out with dataset.box_answer=text"
                if image >= 0
                else "an answer has a box, but no image comes before it"
            )
        if labels[position] != IGNORE_INDEX:
            targets.append(BoxTarget(position - 1, box.edges if isinstance(box, Box) else None, image))
    return tuple(targets)
