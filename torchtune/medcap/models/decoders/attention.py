"""The attention function that transformers' layers call: our masks, our cache, and prompt prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from medcap.modules.attention_mask import added_mask
from medcap.modules.fused_attention import masked_attention

# The name under which transformers knows the function.
ATTENTION = "medcap"
# The keyword argument by which a pass reaches the function through transformers' own layers.
PASS = "medcap_pass"

KeysAndValues = tuple[Tensor, Tensor]


class AttentionPass:
    """What all attention layers of one pass have in common.

    Args:
        mask: ``[R, S, P + S]`` or, over a cache, ``[R, S, used]``; boolean or to be added. None is causal.
        positions: ``[R, S]`` int64, of each token within its own sample.
        prompt_prefix: keys and values of the P tokens that come before, of each layer, ``[P, H_kv, h]`` each.
        kept: gets every layer's keys and values, ``[S, H_kv, h]`` each, if it is not None; R is 1 then.
    """

    def __init__(
        self,
        mask: Tensor | None,
        positions: Tensor,
        prompt_prefix: Sequence[KeysAndValues] | None = None,
        kept: list[KeysAndValues] | None = None,
    ) -> None:
        length = positions.shape[1]
        if mask is None:
            mask = torch.ones(1, length, length, dtype=torch.bool, device=positions.device).tril()
        self._mask = mask
        self._positions = positions
        self._prefix_length = 0 if prompt_prefix is None else len(prompt_prefix[0][0])
        self.prompt_prefix = prompt_prefix
        self.kept = kept
        self._added: dict[int | None, Tensor] = {}

    def added(self, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return what is added to the scores of a layer.

        Args:
            window: a query sees keys less than this many positions before it; None for all. Positions are those within
                a sample, so that it sees the same keys in a packed row, after a shared prefix, and alone.
            dtype: of the scores.

        Returns:
            ``[R, 1, S, keys]``.
        """
        if window not in self._added:
            mask = self._mask
            if window is not None:
                near = self._positions[:, :, None] - self._key_positions()[:, None, :] < window  # [R, S, keys]
                mask = mask & near if mask.dtype == torch.bool else mask.masked_fill(~near, -torch.inf)
            mask = added_mask(mask, dtype) if mask.dtype == torch.bool else mask.to(dtype)
            self._added[window] = mask[:, None]
        return self._added[window]

    def _key_positions(self) -> Tensor:
        """``[R or 1, keys]``: where the keys are in their samples."""
        keys = self._mask.shape[2]
        every = torch.arange(keys, device=self._positions.device)[None]
        own = keys - self._prefix_length
        if own != self._positions.shape[1]:
            return every  # a cache keeps each token in the slot of its position
        before = every[:, : self._prefix_length].expand(len(self._positions), -1)
        return torch.cat([before, self._positions], 1)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention of one layer, as transformers' attention interface asks for it.

    Args:
        module: the layer's attention; its ``kv_cache`` takes the new keys and values where ``cache_enabled``.
        query: ``[R, H, S, h]``.
        key: ``[R, H_kv, S, h]``, rotated.
        value: ``[R, H_kv, S, h]``.
        attention_mask: transformers' own; there is none.
        scaling: factor of the scores; None is ``h ** -0.5``.
        sliding_window: see :meth:`AttentionPass.added`.
        softcap: scores are ``softcap * tanh(scores / softcap)``, as in Gemma 2.
        s_aux: ``[H]`` sinks: scores of one more key without a value, as in gpt-oss.
        others: among them the :class:`AttentionPass`.

    Returns:
        ``[R, S, H, h]`` and None.
    """
    current: AttentionPass = others[PASS]
    layer: Any = module
    if layer.cache_enabled and layer.kv_cache is not None:
        key, value = layer.kv_cache.update(key, value)
    if current.kept is not None:
        current.kept.append((key[0].transpose(0, 1), value[0].transpose(0, 1)))
    if current.prompt_prefix is not None:
        key, value = (
            torch.cat([before.transpose(0, 1)[None].expand(len(own), -1, -1, -1), own], 2)  # [R, H_kv, P + S, h]
            for before, own in zip(current.prompt_prefix[layer.layer_idx], (key, value), strict=True)
        )
    added = current.added(sliding_window, query.dtype)  # [R, 1, S, keys]
    scaling = float(query.shape[-1] ** -0.5 if scaling is None else scaling)
    grouped = query.shape[1] != key.shape[1]
    if softcap is not None or s_aux is not None:
        attended = _plain(query, key, value, added, scaling, softcap, s_aux)
    elif grouped and query.shape[2] == 1:
        # Query heads that share keys take the place of positions, so that the cache is not copied for each of them.
        rows, heads, _, width = query.shape
        shared = query.reshape(rows, key.shape[1], -1, width)  # [R, H_kv, H / H_kv, h]
        attended = scaled_dot_product_attention(shared, key, value, attn_mask=added, scale=scaling)
        attended = attended.reshape(rows, heads, 1, -1)
    else:
        attended = masked_attention(query, key, value, added, scaling)
    return attended.transpose(1, 2).contiguous(), None


def _plain(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    added: Tensor,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """Attention by its formula, for scores that no kernel computes: ``[R, H, S, h]``."""
    grouped = query.unflatten(1, (key.shape[1], -1))  # [R, H_kv, H / H_kv, S, h]
    scores = grouped @ key[:, :, None].transpose(-1, -2) * scaling  # [R, H_kv, H / H_kv, S, keys]
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores + added[:, :, None]
    if sinks is not None:
        sink = sinks.view(1, key.shape[1], -1, 1, 1).expand(*scores.shape[:-1], 1).to(scores)
        scores = torch.cat([scores, sink], -1)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)[..., : key.shape[2]]
    return (weights @ value[:, :, None]).flatten(1, 2)
