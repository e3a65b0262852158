"""What the language model's layers attend to in a packed batch, and the words that were computed before it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medcap.data.batch import Batch
from medcap.models.decoders.transformers_model import Decoder, TransformersDecoder
from medcap.modules.attention_mask import added_mask, packed_attention_mask
from medcap.modules.flex_mask import flex_mask
from medcap.modules.frozen_functions import rotation_tables
from medcap.modules.ragged_attention import RaggedAttention


def attention_options(batch: Batch, output_positions: Tensor, dtype: torch.dtype, ragged: bool) -> dict[str, Any]:
    """Return the options of the layers' training pass that say what attends to what.

    Args:
        batch: the batch; one row without padding if ``ragged``.
        output_positions: ``[n]`` int64 flat positions of the tokens that predict something.
        dtype: of the layers.
        ragged: whether documents are computed one by one instead of under a mask.
    """
    prefix = len(batch.prompt_prefix)
    if ragged:
        after = batch.after_prompt_prefix[0] > 0
        return {"ragged": RaggedAttention(batch.document[0], batch.branch[0], after, prefix, output_positions, dtype)}
    # FlexAttention compiles for every new shape; rows that differ from step to step keep a mask of all pairs, or none.
    if batch.static_shape and batch.tokens.is_cuda:
        layout = batch.with_flex_layout().flex_layout
        assert layout is not None, "it was made now if not before"
        return {"mask": flex_mask(layout, len(batch.tokens), batch.tokens.shape[1], prefix)}
    # Not for rows of a compiler's shape: one kind of mask in some batches and another in others is compiled twice.
    if batch.causal and not batch.static_shape:
        return {"mask": None}
    mask = packed_attention_mask(batch.document, batch.branch, batch.after_prompt_prefix, prefix)
    # Added, not boolean: a boolean mask would be turned into this one again, and kept, in every layer.
    return {"mask": added_mask(mask, dtype)}


def keys_and_values(decoder: Decoder, states: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Compute what later words attend to.

    Args:
        decoder: the language model; its layers support the training pass of ``FrozenLayer``, or it is of transformers.
        states: ``[1, P, d]`` embeddings of words.

    Returns:
        ``[P, H_kv, h]`` keys and values of each layer.
    """
    positions = torch.arange(states.shape[1], device=states.device)[None]  # [1, P]
    kept: list[tuple[Tensor, Tensor]] = []
    # Not compiled: it does not pay for one short row, and would compile one more shape.
    with torch.compiler.set_stance("force_eager"):
        layers: Any = decoder.layers
        if isinstance(decoder, TransformersDecoder):
            decoder.run(states, None, positions, kept=kept)
            layers = ()
        for layer, table in zip(layers, rotation_tables(layers, positions), strict=True):
            states, keys, values = layer(states, input_pos=positions, training_pass=True, table=table, with_keys=True)
            kept.append((keys[0], values[0]))
    return kept
