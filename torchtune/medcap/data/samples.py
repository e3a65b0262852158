"""One conversation -> one sample: what is computed of it, and what is to be predicted where."""

from __future__ import annotations

import numpy as np

from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.labels_and_image_tokens import LabelRules, TokenizedChat
from medcap.data.packing import Sample
from medcap.data.row_layouts import Record
from medcap.errors import UserError
from medcap.modules.label_loss import IGNORE_INDEX


def tokenize_record(record: Record, name: str, tokenizer: ChatTokenizer, max_seq_len: int, rules: LabelRules) -> Sample:
    """One record -> one sample.

    Raises:
        UserError: if truncation cuts an image or leaves nothing to learn.
    """
    return make_sample(tokenizer.tokenize(record.messages, max_seq_len, rules), name, tokenizer)


def make_sample(chat: TokenizedChat, name: str, tokenizer: ChatTokenizer) -> Sample:
    """One tokenized conversation -> one sample.

    Raises:
        UserError: if nothing comes before the only token to learn.
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
    )
