"""The last decoder layer where only a few of its outputs are wanted: its feed-forward part runs for these alone."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchtune.modules import TransformerSelfAttentionLayer

from medcap.modules.frozen_layer import FrozenLayer


def layer_at(layer: nn.Module, states: Tensor, places: Tensor, mask: Any, input_pos: Tensor) -> Tensor:
    """Run a layer and take some of its outputs.

    Every position gives its key and value to the others, so attention runs for all of them; what follows attention
    concerns a position alone.

    Args:
        layer: a decoder layer; one that is not torchtune's self-attention layer, or has hooks (sharding puts them
            there), runs as it is.
        states: ``[R, S, d]``.
        places: ``[n]`` int64 flat positions.
        mask: as the layer takes it.
        input_pos: ``[R, S]`` int64.

    Returns:
        ``[n, d]``, equal to the layer's output at these places.
    """
    known = type(layer) in (TransformerSelfAttentionLayer, FrozenLayer)
    if not known or layer._forward_pre_hooks or layer._forward_hooks:
        return layer(states, mask=mask, input_pos=input_pos).flatten(0, 1)[places]
    normed = layer.sa_norm(states)
    attended = layer.attn(normed, normed, mask=mask, input_pos=input_pos).flatten(0, 1)[places]  # [n, d]
    kept = layer.sa_scale(attended) + states.flatten(0, 1)[places]
    return kept + layer.mlp_scale(layer.mlp(layer.mlp_norm(kept)))
