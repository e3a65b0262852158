"""Attention in the forms for which GPUs have a fused kernel that is not cuDNN's.

Of torch 2.11's kernels, flash takes grouped heads but no mask and no float32; the memory-efficient one takes masks but
no groups. What neither takes is computed step by step, with all scores kept in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention


def masked_attention(query: Tensor, key: Tensor, value: Tensor, added: Tensor, scale: float | None = None) -> Tensor:
    """Attention under a mask.

    Args:
        query: ``[R, H, S, h]``.
        key: ``[R, H_kv, keys, h]``; H is a multiple of H_kv.
        value: ``[R, H_kv, keys, h]``.
        added: ``[R, 1, S, keys]``, added to the scores.
        scale: factor of the scores; None is ``h ** -0.5``.

    Returns:
        ``[R, H, S, h]``.
    """
    if query.device.type != "cpu":
        key, value = (for_all_heads(tensor, query.shape[1]) for tensor in (key, value))
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, attn_mask=added, scale=scale, enable_gqa=grouped)


def causal_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention to all keys up to the query's own; the queries are those of the last S keys.

    Args:
        query: ``[R, H, S, h]``.
        key: ``[R, H_kv, P + S, h]``.
        value: ``[R, H_kv, P + S, h]``.

    Returns:
        ``[R, H, S, h]``.
    """
    if query.device.type != "cpu" and query.dtype == torch.float32:
        key, value = (for_all_heads(tensor, query.shape[1]) for tensor in (key, value))
    before = key.shape[2] - query.shape[2]
    if before:
        # Kernels align the first query with the first key. P queries more cost less than a mask does.
        query = functional.pad(query, (0, 0, before, 0))  # [R, H, P + S, h]
    grouped = query.shape[1] != key.shape[1]
    attended = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=grouped)
    return attended[:, :, before:]


def for_all_heads(tensor: Tensor, num_heads: int) -> Tensor:
    """Repeat keys or values for each query head that shares them: ``[R, H_kv, keys, h] -> [R, H, keys, h]``."""
    groups = num_heads // tensor.shape[1]
    return tensor if groups == 1 else tensor[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)
