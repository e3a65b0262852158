"""Which tokens attend to which in packed rows, as boolean masks."""

from __future__ import annotations

import torch
from torch import Tensor

# Numbers; GPU kernels read a mask in pieces of this size.
_MASK_ALIGNMENT = 8


def packed_attention_mask(
    document: Tensor,
    branch: Tensor,
    after_prompt_prefix: Tensor | None = None,
    prompt_prefix_length: int = 0,
) -> Tensor:
    """Causal, within a document, and of the branches only the shared prefix (0) and the query's own.

    Padding (document -1) attends to the padding before it, so no row of the softmax is empty.

    Args:
        document: ``[R, S]`` int64.
        branch: ``[R, S]`` int64.
        after_prompt_prefix: ``[R, S]`` int64, 1 where a token's document continues the prompt prefix, else 0.
        prompt_prefix_length: P, keys of the prompt prefix before those of the row.

    Returns:
        ``[R, S, P + S]`` bool, True where a query (dimension 1) attends to a key (dimension 2).
    """
    length = document.shape[1]
    after = after_prompt_prefix if prompt_prefix_length else None
    causal = torch.ones(length, length, dtype=torch.bool, device=document.device).tril()
    same_document = document[:, :, None] == document[:, None, :]  # [R, S, S]
    visible = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    inside = causal & same_document & visible
    if after is None:
        return inside
    return torch.cat([(after > 0)[:, :, None].expand(-1, -1, prompt_prefix_length), inside], 2)


def added_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a boolean mask as a tensor to add to the scores: 0 where a query attends to a key, else minus infinity.

    Args:
        mask: ``[..., keys]`` bool.
        dtype: of the scores.

    Returns:
        ``[..., keys]``. On a GPU its rows begin at multiples of 8 numbers: of others every layer would make a copy.
    """
    keys = mask.shape[-1]
    stride = keys if mask.device.type == "cpu" else -(-keys // _MASK_ALIGNMENT) * _MASK_ALIGNMENT
    added = torch.zeros(*mask.shape[:-1], stride, dtype=dtype, device=mask.device)[..., :keys]
    return added.masked_fill_(~mask, -torch.inf)


def tree_attention_mask(branch: Tensor, leaf: Tensor) -> Tensor:
    """Causal in rows that each hold one tree: a shared prefix, branches after it, leaves after a branch.

    Args:
        branch: ``[R, S]`` int64; 0 is the prefix, which all tokens see; -1 is padding, which sees only padding.
        leaf: ``[R, S]`` int64; 0 is the branch itself, all its leaves see it.

    Returns:
        ``[R, S, S]`` bool, True where a query (dimension 1) attends to a key (dimension 2).
    """
    length = branch.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=branch.device).tril()
    same_branch = branch[:, None, :] == branch[:, :, None]  # [R, S, S]
    on_the_way = (leaf[:, None, :] == 0) | (leaf[:, None, :] == leaf[:, :, None])
    prefix = (branch[:, None, :] == 0) & (branch[:, :, None] >= 0)
    return causal & (prefix | (same_branch & on_the_way))
