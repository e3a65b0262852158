"""Take the added words of an imported model from the last rows of its language model's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medcap.checkpoints.weight_shards import PendingTensor
from medcap.models.component import EMBEDDING, OUTPUT
from medcap.models.words import AddedWords

_TABLES = {"model.embed_tokens.weight": EMBEDDING, "lm_head.weight": OUTPUT}


def take_words(
    added: Mapping[str, Any], language: dict[str, Any], tensors: Sequence[PendingTensor]
) -> tuple[AddedWords, list[PendingTensor]]:
    """Take the rows of added words off the language model's tables.

    Args:
        added: ``tokens`` and ``image_words`` of the component.
        language: configuration of the language model; its ``vocab_size`` is reduced in place.
        tensors: tensors of the language model, under Hugging Face's names.

    Returns:
        The words, and the tensors of the language model without the words' rows.
    """
    tied = bool(language["tie_word_embeddings"])
    words = AddedWords(added["tokens"], added["image_words"], language["hidden_size"], tied)
    language["vocab_size"] -= len(words.tokens)
    own = []
    for tensor in tensors:
        rows = words.added_rows(_TABLES.get(tensor.name, ""))
        if rows is not None:
            rows.data.copy_(tensor.read()[language["vocab_size"] :])
            tensor = PendingTensor(
                tensor.name,
                (language["vocab_size"], *tensor.shape[1:]),
                tensor.dtype,
                lambda read=tensor.read: read()[: language["vocab_size"]],
            )
        own.append(tensor)
    return words, own
