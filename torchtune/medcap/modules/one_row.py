"""Matrix products of a single row, as decoding one answer has them, in the form that a compiler makes fast on a CPU."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torchtune.modules import TiedLinear


def project(linear: Any, states: Tensor) -> Tensor:
    """Apply a frozen linear map.

    The time of one row is that of reading the weights. The CPU libraries that torch calls read them on one thread and
    at a part of the memory's rate; a compiled sum of products reads at the rate of all threads.

    Args:
        linear: a linear module, or torchtune's ``TiedLinear``.
        states: ``[..., d]``.

    Returns:
        ``[..., d']``.
    """
    if _is_one_compiled(states) and states.numel() == states.shape[-1]:
        weight = _plain_weight(linear)
        if weight is not None and weight.dtype == states.dtype:
            return (weight * states.flatten()).sum(dim=-1).view(*states.shape[:-1], -1)
    return linear(states)


def attend(query: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attend to the keys of a cache.

    Args:
        query: ``[R, H_kv, H / H_kv, h]``, the query heads that share a key.
        keys: ``[R, H_kv, used, h]``.
        values: ``[R, H_kv, used, h]``.
        mask: ``[R, 1, 1, used]`` bool; None is all.

    Returns:
        ``[R, H_kv, H / H_kv, h]``.
    """
    if not _is_one_compiled(query) or len(query) > 1:
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    scores = (query[:, :, :, None].float() * keys[:, :, None].float()).sum(dim=-1) * query.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)  # [1, H_kv, H / H_kv, used]
    shares = scores.softmax(dim=-1)[..., None]
    return (shares * values[:, :, None].float()).sum(dim=-2).to(query.dtype)


def _is_one_compiled(states: Tensor) -> bool:
    return torch.compiler.is_compiling() and states.device.type == "cpu"


def _plain_weight(linear: Any) -> Tensor | None:
    """Return the weight of a linear map that is nothing but its weight."""
    if type(linear) is TiedLinear:
        tied: Any = linear.tied_module
        return tied.weight
    return linear.weight if type(linear) is nn.Linear and linear.bias is None else None
