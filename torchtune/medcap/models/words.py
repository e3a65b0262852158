"""Embedding and output rows of added tokens, next to the frozen tables of the language model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medcap.data.added_tokens import check_words
from medcap.models.component import EMBEDDING, OUTPUT, Component
from medcap.modules.added_rows import start_rows


class _LanguageModelPlan(Protocol):
    @property
    def dim(self) -> int: ...

    @property
    def tied(self) -> bool: ...


class _ModelPlan(Protocol):
    """The part of ``ModelPlan`` (``medcap.checkpoints.build_model``) used here; this layer may not import it."""

    @property
    def llm(self) -> _LanguageModelPlan: ...


def added_words(plan: _ModelPlan, tokens: list[str], image_words: list[str] | None = None) -> AddedWords:
    """Build the rows of added tokens.

    Args:
        plan: plan of the model.
        tokens: words that become one token each.
        image_words: two of the words, before and after the image tokens of every image; None for none.

    Returns:
        The rows. New ones get their values when the model is built.

    Raises:
        UserError: if a word cannot be a token; see :func:`medcap.data.added_tokens.check_words`.
    """
    check_words(tokens, image_words or ())
    return AddedWords(tokens, image_words or (), plan.llm.dim, plan.llm.tied)


class AddedWords(Component):
    """Words that become one token each, with their own embedding and output rows.

    A list in the configuration is short for ``tokens``. New rows start as the mean of the table's rows, as in LLaVA
    (``initialize_vision_tokenizer`` in llava/model/llava_arch.py). Where the language model uses one table for
    embedding and output, so do the words: otherwise an export could not tie the tables again.

    Args:
        tokens: words that are one token each.
        image_words: the words before and after every image; empty for none.
        dim: width d of the language model's tables.
        tied: whether the same rows are used for embedding and output.
    """

    name = "words"
    label = "added words"
    builder = "medcap.models.added_words"
    list_argument = "tokens"
    fixed_arguments = ("tokens",)
    changes_language_model = True

    def __init__(self, tokens: Sequence[str], image_words: Sequence[str], dim: int, tied: bool) -> None:
        super().__init__()
        self.tokens, self.image_words = list(tokens), list(image_words)
        # NaN until the rows are loaded or get their first values, so that a forgotten row cannot be used unnoticed.
        self.embedding = nn.Parameter(torch.full((len(tokens), dim), math.nan))
        self.output = None if tied else nn.Parameter(torch.full((len(tokens), dim), math.nan))

    @property
    def draws_in_layers(self) -> bool:
        """No: it is a table before the layers, and one after them."""
        return False

    def config(self) -> dict[str, Any]:
        """Return the builder's name and its options."""
        return {"_component_": self.builder, "tokens": self.tokens, "image_words": self.image_words or None}

    @classmethod
    def summary(cls, config: Mapping[str, Any]) -> str:
        """List the words."""
        return ", ".join(f"`{word}`" for word in config["tokens"])

    def attach(self, model: nn.Module) -> None:
        """Give new rows their first values."""
        decoder: Any = model.get_submodule("decoder")
        start_rows(self.embedding.detach(), decoder.tok_embeddings.weight)
        if self.output is not None:
            start_rows(self.output.detach(), decoder.output.weight)

    def added_rows(self, name: str) -> Tensor | None:
        """Return the words' rows of a table, ``[n, d]`` fp32; None for another table than embedding and output."""
        rows = {EMBEDDING: self.embedding, OUTPUT: self.embedding if self.output is None else self.output}
        return rows.get(name)
