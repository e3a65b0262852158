"""Attention within documents that lie one after another, without padding between them and without a full mask.

This implementation is for the CPU, where a kernel costs as many operations as its mask has entries, allowed or not: a
mask over a row of several documents would be mostly forbidden.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


@dataclass(frozen=True)
class Piece:
    """Queries that one kernel takes together.

    Attributes:
        document: document whose keys the queries attend to.
        num_keys: how many of them, from the document's first.
        mask: ``[queries, P + num_keys]``, added to the scores: 0 or minus infinity. P is
            the length of the prompt prefix if the document follows it, and 0 otherwise; these keys come first.
    """

    document: int
    num_keys: int
    mask: Tensor


class RaggedAttention:
    """Which tokens attend to which in a flat list of documents, for all layers of a step.

    Args:
        document: ``[n]`` int64, which document each token belongs to, ascending.
        branch: ``[n]`` int64, 0 in a document's shared prefix, then 1, 2, ... in its branches.
        after_prompt_prefix: ``[n]`` bool, whether the token's document continues the prompt prefix.
        prompt_prefix_length: tokens of the prompt prefix; 0 without one.
        output_positions: ``[m]`` int64 ascending, the tokens whose output the last layer is asked for.
        dtype: dtype of the scores.
    """

    def __init__(
        self,
        document: Tensor,
        branch: Tensor,
        after_prompt_prefix: Tensor,
        prompt_prefix_length: int,
        output_positions: Tensor,
        dtype: torch.dtype,
    ) -> None:
        self.output_positions = output_positions
        sizes = torch.unique_consecutive(document, return_counts=True)[1]
        self.sizes: list[int] = sizes.tolist()
        starts = [0, *sizes.cumsum(0).tolist()]
        self.follows: list[bool] = after_prompt_prefix[torch.tensor(starts[:-1], dtype=torch.int64)].tolist()
        kept = torch.searchsorted(output_positions, torch.tensor(starts)).tolist()
        longest = max(self.sizes) + prompt_prefix_length
        forbidden = torch.ones(longest, longest, dtype=torch.bool).triu(1)
        self._causal = torch.zeros(longest, longest, dtype=dtype).masked_fill_(forbidden, -torch.inf)
        self._pieces: list[Piece] = []
        self._last_pieces: list[Piece] = []
        for index, size in enumerate(self.sizes):
            before = prompt_prefix_length if self.follows[index] else 0
            own = output_positions[kept[index] : kept[index + 1]] - starts[index]  # [m_i]
            self._add(index, branch[starts[index] : starts[index] + size], before, own)

    def _add(self, index: int, branch: Tensor, before: int, own: Tensor) -> None:
        size = len(branch)
        prefix = int((branch == 0).sum())
        # A query sees the prompt prefix and what comes before it.
        rows = self._causal[before : before + size, : before + size]  # [s, P + s]
        if prefix == size:
            self._pieces.append(Piece(index, size, rows))
            if len(own):
                self._last_pieces.append(Piece(index, size, rows[own]))
            return
        # Prefix queries see prefix keys. Branch queries get all keys; the mask hides the other branches.
        others = (branch[prefix:, None] != branch) & (branch != 0)  # [s - prefix, s]
        branches = rows[prefix:].clone()
        branches[:, before:].masked_fill_(others, -torch.inf)
        self._pieces.append(Piece(index, prefix, rows[:prefix, : before + prefix]))
        self._pieces.append(Piece(index, size, branches))
        if len(own):
            whole = torch.cat([rows[:prefix], branches])
            self._last_pieces.append(Piece(index, size, whole[own]))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, prompt_prefix: tuple[Tensor, Tensor] | None, last: bool = False
    ) -> Tensor:
        """Attention of one layer.

        Args:
            query: ``[n, H, h]``, or ``[m, H, h]`` of the output positions in the last layer.
            key: ``[n, H_kv, h]``.
            value: ``[n, H_kv, h]``.
            prompt_prefix: its keys and values, ``[P, H_kv, h]`` each.
            last: whether the queries are those of the output positions only.

        Returns:
            ``[n or m, H, h]``.
        """
        pieces = self._last_pieces if last else self._pieces
        queries = query.split([len(piece.mask) for piece in pieces])
        keys, values = key.split(self.sizes), value.split(self.sizes)
        outputs = []
        for piece, own_queries in zip(pieces, queries, strict=True):
            own_keys = _first(keys[piece.document], piece.num_keys)
            own_values = _first(values[piece.document], piece.num_keys)
            if prompt_prefix is not None and self.follows[piece.document]:
                own_keys = torch.cat([prompt_prefix[0], own_keys])
                own_values = torch.cat([prompt_prefix[1], own_values])
            output = scaled_dot_product_attention(
                own_queries.transpose(0, 1)[None],  # [1, H, q, h]
                own_keys.transpose(0, 1)[None],
                own_values.transpose(0, 1)[None],
                attn_mask=piece.mask[None, None],
                enable_gqa=query.shape[1] != key.shape[1],
            )
            outputs.append(output[0].transpose(0, 1))  # [q, H, h]
        return torch.cat(outputs) if outputs else query


def _first(tensor: Tensor, count: int) -> Tensor:
    # A slice of everything would still cost a copy in the backward pass.
    return tensor if count == len(tensor) else tensor[:count]
