"""A torchtune decoder layer whose weights are frozen: the same outputs and gradients for less work and memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torchtune.modules import MultiHeadAttention, TransformerDecoder, TransformerSelfAttentionLayer

from medcap.modules.frozen_functions import feed_forward, normalise, rotate
from medcap.modules.fused_attention import causal_attention, masked_attention
from medcap.modules.one_row import attend, project
from medcap.modules.ragged_attention import RaggedAttention


class FrozenLayer(TransformerSelfAttentionLayer):
    """A self-attention layer built from another one's parts; their names stay.

    Called like the layer it came from (with ``mask`` and ``input_pos``) it does what that did, such as prefilling a
    cache and decoding over it. Called with ``training_pass`` it runs the training pass.

    Args:
        layer: layer for which :func:`can_freeze` is true.
    """

    def __init__(self, layer: TransformerSelfAttentionLayer) -> None:
        super().__init__(
            layer.attn,
            layer.mlp,
            sa_norm=layer.sa_norm,
            mlp_norm=layer.mlp_norm,
            sa_scale=layer.sa_scale,
            mlp_scale=layer.mlp_scale,
        )
        self.train(layer.training)

    def forward(
        self,
        states: Tensor,
        *,
        mask: Tensor | BlockMask | None = None,
        input_pos: Tensor | None = None,
        training_pass: bool = False,
        table: Tensor | None = None,
        ragged: RaggedAttention | None = None,
        prompt_prefix: tuple[Tensor, Tensor] | None = None,
        output_positions: Tensor | None = None,
        with_keys: bool = False,
        **others: Any,
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Run the layer.

        Args:
            states: ``[R, S, d]``; R is 1 with ``ragged``.
            mask: ``[R, S, P + S]``, boolean or to be added, or the equal block mask; None is causal.
            input_pos: ``[R, S]`` int64.
            training_pass: run the training pass.
            table: table from ``rotation_table``; like the next two and ``with_keys``, only for training.
            ragged: ragged attention, in place of ``mask``.
            prompt_prefix: keys and values of the P tokens that come before, ``[P, H_kv, h]`` each.
            output_positions: ``[m]`` int64 flat positions, ascending in training; only their outputs are wanted.
                The other positions still contribute their keys and values.
            with_keys: return the keys and values too, ``[R, S, H_kv, h]`` each.
            others: what torchtune's decoder passes to layers of other kinds.

        Returns:
            ``[R, S, d]``, or ``[1, m, d]`` of the output positions.
        """
        if not training_pass:
            if states.shape[1] == 1 and self.attn.kv_cache is not None and self.attn.cache_enabled:
                assert not isinstance(mask, BlockMask), "decoding has none"
                return self._decode_one(states, mask, input_pos)
            if output_positions is not None:
                return self._prefill_at(states, output_positions, mask, input_pos)
            return super().forward(states, mask=mask, input_pos=input_pos)
        normed = normalise(self.sa_norm, states)
        key = rotate(self.attn.pos_embeddings, self._heads(self.attn.k_proj(normed)), table, input_pos)
        if self.attn.k_norm is not None:
            key = self.attn.k_norm(key)
        value = self._heads(self.attn.v_proj(normed))  # [R, S, H_kv, h]
        if output_positions is not None and ragged is not None:
            states, normed = _take(states, output_positions), _take(normed, output_positions)  # [1, m, d]
            input_pos = None if input_pos is None else _take(input_pos, output_positions)
            table = None if table is None else _take(table, output_positions)
        query = self._heads(self.attn.q_proj(normed))  # [R, S, H, h]
        query = rotate(self.attn.pos_embeddings, query, table, input_pos)
        if self.attn.q_norm is not None:
            query = self.attn.q_norm(query)
        if ragged is not None:
            attended = ragged.attend(query[0], key[0], value[0], prompt_prefix, last=output_positions is not None)[None]
        else:
            attended = _attend(query, key, value, prompt_prefix, mask)
        attended = attended.flatten(2)  # [R, S, H * h]
        if output_positions is not None and ragged is None:
            states, attended = _take(states, output_positions), _take(attended, output_positions)
        states = self.sa_scale(self.attn.output_proj(attended)) + states
        states = states + self.mlp_scale(feed_forward(self.mlp, normalise(self.mlp_norm, states)))
        return (states, key, value) if with_keys else states

    def _prefill_at(
        self, states: Tensor, output_positions: Tensor, mask: Tensor | BlockMask | None, input_pos: Tensor | None
    ) -> Tensor:
        """Return the part after attention, which treats each position separately: ``[R, S, d] -> [1, m, d]``."""
        normed = self.sa_norm(states)
        attended = _take(self.attn(normed, normed, mask=mask, input_pos=input_pos), output_positions)
        kept = self.sa_scale(attended) + _take(states, output_positions)
        return kept + self.mlp_scale(self.mlp(self.mlp_norm(kept)))

    def _decode_one(self, states: Tensor, mask: Tensor | None, input_pos: Tensor | None) -> Tensor:
        """One token of every row over the cache: ``[R, 1, d] -> [R, 1, d]``.

        torchtune copies all cached keys and values for every query head that shares them. Here these heads are placed
        where a sequence has its positions, so that they share one copy.
        """
        attn = self.attn
        normed = self.sa_norm(states)
        query, key, value = (
            self._heads(project(projection, normed)) for projection in (attn.q_proj, attn.k_proj, attn.v_proj)
        )  # [R, 1, heads, h]
        if attn.pos_embeddings is not None:
            query, key = (attn.pos_embeddings(tensor, input_pos=input_pos) for tensor in (query, key))
        if attn.q_norm is not None and attn.k_norm is not None:  # torchtune takes both or none
            query, key = attn.q_norm(query), attn.k_norm(key)
        assert attn.kv_cache is not None, "forward asks before"
        keys, values = attn.kv_cache.update(key.transpose(1, 2), value.transpose(1, 2))  # [R, H_kv, used, h]
        grouped = query.reshape(len(query), keys.shape[1], -1, attn.head_dim)  # [R, H_kv, H / H_kv, h]
        attended = attend(grouped, keys, values, None if mask is None else mask[:, None])
        attended = attended.reshape(len(query), 1, -1)  # [R, 1, H * h]
        states = self.sa_scale(project(attn.output_proj, attended)) + states
        return states + self.mlp_scale(feed_forward(self.mlp, self.mlp_norm(states)))

    def _heads(self, tensor: Tensor) -> Tensor:
        return tensor.unflatten(-1, (-1, self.attn.head_dim))


def _take(tensor: Tensor, output_positions: Tensor) -> Tensor:
    return tensor.flatten(0, 1)[output_positions][None]


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prompt_prefix: tuple[Tensor, ...] | None,
    mask: Tensor | BlockMask | None,
) -> Tensor:
    if prompt_prefix is not None:
        rows, length = query.shape[:2]
        if isinstance(mask, BlockMask):
            # Its keys begin with whole blocks.
            missing = mask.seq_lengths[1] - length - len(prompt_prefix[0])
            prompt_prefix = tuple(functional.pad(part, (0, 0, 0, 0, 0, missing)) for part in prompt_prefix)
        key, value = (
            torch.cat([before.expand(rows, -1, -1, -1), own], 1)  # [R, P + S, H_kv, h]
            for before, own in zip(prompt_prefix, (key, value), strict=True)
        )
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))  # [R, H, S, h]
    if isinstance(mask, BlockMask):
        grouped = query.shape[1] != key.shape[1]
        options = _flex_options(query.shape[-1], query.device)
        attended = _flex()(query, key, value, block_mask=mask, enable_gqa=grouped, kernel_options=options)
    elif mask is None:
        attended = causal_attention(query, key, value)
    else:
        attended = masked_attention(query, key, value, mask[:, None])
    return attended.transpose(1, 2)


# FlexAttention's own blocks for heads of 256 numbers take 152,064 bytes of a multiprocessor's shared memory forward and
# 135,680 backward, of which a card of 24 GB has 101,376. With these it is 53,248 and 65,536 (compiled for an RTX 4090
# by torch 2.11).
_LARGE_BLOCKS_BYTES, _LARGEST_NARROW_HEAD = 152_064, 128
_SMALL_BLOCKS = {
    "fwd_BLOCK_M": 64,
    "fwd_BLOCK_N": 32,
    "fwd_num_stages": 1,
    "bwd_BLOCK_M1": 32,
    "bwd_BLOCK_N1": 32,
    "bwd_BLOCK_M2": 32,
    "bwd_BLOCK_N2": 32,
    "bwd_num_stages": 1,
}


def _flex_options(head_width: int, device: torch.device) -> dict[str, Any] | None:
    """Return FlexAttention's ``kernel_options``: None leaves the choice to it."""
    if head_width <= _LARGEST_NARROW_HEAD or device.type != "cuda":
        return None
    memory = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
    return dict(_SMALL_BLOCKS) if memory < _LARGE_BLOCKS_BYTES else None


def _flex() -> Callable[..., Any]:
    """FlexAttention; on its own it must be compiled, within a compiled layer it is compiled with it."""
    return flex_attention if torch.compiler.is_compiling() else _compiled_flex()


@functools.cache
def _compiled_flex() -> Callable[..., Any]:
    return torch.compile(flex_attention, dynamic=False)


def can_freeze(layer: nn.Module) -> TypeGuard[TransformerSelfAttentionLayer]:
    """Return whether :class:`FrozenLayer` can replace a layer: torchtune's own, with its attention, without hooks."""
    return (
        type(layer) is TransformerSelfAttentionLayer
        and type(layer.attn) is MultiHeadAttention
        and layer.attn.is_causal
        and layer.attn.attn_dropout == 0
    )


def freeze_layers(decoder: TransformerDecoder) -> None:
    """Replace every layer that can be one by a :class:`FrozenLayer`; weights and their names stay.

    Args:
        decoder: any torchtune decoder; what it computes stays the same.
    """
    for number, layer in enumerate(decoder.layers):
        if can_freeze(layer):
            decoder.layers[number] = FrozenLayer(layer)


def is_frozen(decoder: TransformerDecoder) -> bool:
    """Return whether all layers are :class:`FrozenLayer`, so that the whole decoder can run the training pass."""
    return all(isinstance(layer, FrozenLayer) for layer in decoder.layers)
