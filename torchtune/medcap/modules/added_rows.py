"""An embedding table that is longer than its weight: further rows follow it that are kept apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchtune.models.gemma.gemma_norm_embedding import GemmaNormEmbeddings


def start_rows(rows: Tensor, table: Tensor) -> Tensor:
    """Give rows that are not a number the mean of a table's rows, as LLaVA starts new words.

    Args:
        rows: ``[n, d]``, changed in place.
        table: ``[V, d]``.

    Returns:
        The rows; those that have values keep them.
    """
    if rows.isnan().all():
        rows.copy_(table.mean(0, dtype=torch.float32))
    return rows


def embed_with_rows(table: nn.Embedding, rows: Tensor, tokens: Tensor) -> Tensor:
    """Look tokens up in a table and in the rows that follow it.

    Args:
        table: of V rows.
        rows: ``[n, d]``, of the ids V to V + n - 1; any floating-point dtype.
        tokens: ``[...]`` int64, below V + n.

    Returns:
        ``[..., d]`` in the table's dtype; its gradient reaches ``rows`` only from their own tokens.
    """
    added = tokens >= table.num_embeddings
    own = table(tokens.masked_fill(added, 0))  # [..., d]
    further = functional.embedding((tokens - table.num_embeddings).masked_fill(~added, 0), rows.to(table.weight.dtype))
    if isinstance(table, GemmaNormEmbeddings):
        further = further * torch.tensor(table.embedding_dim**0.5, dtype=own.dtype)
    elif isinstance(scale := getattr(table, "embed_scale", None), Tensor):  # transformers' Gemma
        further = further * scale.to(further.dtype)
    return torch.where(added[..., None], further, own)
