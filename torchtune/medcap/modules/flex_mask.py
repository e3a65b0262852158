"""The mask of packed rows for FlexAttention, from what was found on the host."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from medcap.modules.flex_layout import ALIGNMENT, BLOCK, padded_prefix


def flex_mask(layout: Tensor, rows: int, length: int, prompt_prefix_length: int) -> BlockMask:
    """Return the mask for FlexAttention.

    Args:
        layout: ``[n]`` int32 of ``flex_layout``, on the device that attends.
        rows: R.
        length: S.
        prompt_prefix_length: P.

    Returns:
        The mask of S queries and ``padded_prefix(P) + S`` keys: those between the prompt prefix and the row's own are
        padding. They make the keys as divisible as the row's length is.
    """
    before = padded_prefix(prompt_prefix_length)
    queries = -(-length // BLOCK)
    keys = before // BLOCK + queries
    shapes = [(rows, length)] * 2
    shapes += [(rows, 1, queries), (rows, 1, queries, keys)] * 2 + [(rows, 1, keys), (rows, 1, keys, queries)] * 2
    parts, begin = [], 0
    for shape in shapes:
        size = prod(shape)
        parts.append(layout[begin : begin + size].view(shape))
        begin += size + -size % ALIGNMENT
    last, after, *blocks = parts

    def attends(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        own = (key - before).clamp(min=0)
        inside = (query >= own) & (query <= last[row, own])
        if not before:
            return inside
        return torch.where(key < before, (key < prompt_prefix_length) & (after[row, query] > 0), inside)

    return BlockMask((length, before + length), *blocks, BLOCK_SIZE=(BLOCK, BLOCK), mask_mod=attends)
