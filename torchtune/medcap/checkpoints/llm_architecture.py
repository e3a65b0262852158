"""The decoder that the ``llm`` key describes: built without memory, compared with what a checkpoint says of itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchtune.models.llama3_1 import Llama3ScaledRoPE
from torchtune.modules import TiedLinear, TransformerDecoder

from medcap.errors import UserError
from medcap.instantiate import check_arguments, find_component
from medcap.models.decoders.transformers_model import Decoder, TransformersDecoder

TRANSFORMERS = "medcap.models.transformers_decoder"


@dataclass(frozen=True)
class RopeScaling:
    """Llama 3.1's stretching of the rotary frequencies, in Hugging Face's words (``rope_type: llama3``)."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def __str__(self) -> str:
        return (
            f"llama3 with factor {self.factor:g}, low_freq_factor {self.low_freq_factor:g},"
            f" high_freq_factor {self.high_freq_factor:g},"
            f" original_max_position_embeddings {self.original_max_position_embeddings}"
        )


@dataclass(frozen=True)
class DecoderShape:
    """Everything that decides a decoder's computation besides its weights.

    Attributes:
        vocab_size: rows of the embedding table.
        embed_dim: width d.
        intermediate_dim: width inside the feed-forward layers.
        norm_eps: epsilon of the norms, None where they do not tell.
        rope_base: base of the rotary frequencies.
        rope_scaling: None for plain rotary positions.
        tied: whether the output projection is the embedding table.
        max_seq_len: positions that the rotary table holds.
    """

    vocab_size: int
    embed_dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_dim: int
    norm_eps: float | None
    rope_base: float
    rope_scaling: RopeScaling | None
    tied: bool
    max_seq_len: int


def component_of(llm: Mapping[str, Any] | str | None) -> dict[str, Any]:
    """Return the ``llm`` key as a plain dict with ``_component_``.

    Raises:
        UserError: if there is no ``_component_``.
    """
    llm = {"_component_": llm} if isinstance(llm, str) else dict(llm or {})
    if not isinstance(llm.get("_component_"), str):
        raise UserError("llm._component_ is missing: name a builder such as torchtune.models.llama3_1.llama3_1_8b")
    return llm


def with_files(llm: Mapping[str, Any] | str | None, checkpoint_dir: str | Path) -> dict[str, Any]:
    """Return the ``llm`` key with the folder that a decoder is described by, where the key names none.

    Args:
        llm: as configured.
        checkpoint_dir: folder of the language model's weights.
    """
    llm = component_of(llm)
    if llm["_component_"] == TRANSFORMERS and llm.get("path") is None:
        llm["path"] = str(checkpoint_dir)
    return llm


def build_decoder(llm: Mapping[str, Any] | str) -> Decoder:
    """Build the decoder on the meta device: shapes without memory.

    Args:
        llm: ``{"_component_": dotted name of a torchtune builder, **its arguments}``.

    Returns:
        The decoder; every parameter and buffer is on the meta device.

    Raises:
        UserError: for an unknown builder, an argument that it does not take, or one that is not a text decoder.
    """
    arguments = component_of(llm)
    name = arguments.pop("_component_")
    builder = find_component(name, "llm._component_")
    if not callable(builder):
        raise UserError(f"llm._component_={name} is not a builder: name a function that returns a TransformerDecoder")
    check_arguments(builder, arguments, "llm")
    try:
        with torch.device("meta"):
            decoder = builder(**arguments)
    except (TypeError, ValueError, AssertionError, ZeroDivisionError, RuntimeError) as error:
        raise UserError(f"llm: {name} cannot be built with these arguments: {error}") from error
    if isinstance(decoder, TransformersDecoder):
        return decoder
    attention = getattr(decoder.layers[0], "attn", None) if isinstance(decoder, TransformerDecoder) else None
    if not hasattr(getattr(attention, "pos_embeddings", None), "base"):
        raise UserError(
            f"llm._component_={name} makes a {type(decoder).__name__}, not a text decoder with rotary positions:"
            f" name a builder such as torchtune.models.llama3_1.llama3_1_8b, or {TRANSFORMERS}"
        )
    return decoder


def describe(decoder: Decoder) -> DecoderShape:
    """Read a decoder's shape off its modules, or off the configuration that it was built from.

    Args:
        decoder: any torchtune text decoder, or one of transformers, on any device.

    Returns:
        Its shape.
    """
    if isinstance(decoder, TransformersDecoder):
        return _describe_config(decoder)
    layer: Any = decoder.layers[0]
    attention, rope = layer.attn, layer.attn.pos_embeddings
    scaling = None
    if isinstance(rope, Llama3ScaledRoPE):
        scaling = RopeScaling(
            float(rope.scale_factor), float(rope.low_freq_factor), float(rope.high_freq_factor), rope.old_context_len
        )
    return DecoderShape(
        vocab_size=decoder.tok_embeddings.num_embeddings,
        embed_dim=decoder.tok_embeddings.embedding_dim,
        num_layers=len(decoder.layers),
        num_heads=attention.num_heads,
        num_kv_heads=attention.num_kv_heads,
        head_dim=attention.head_dim,
        intermediate_dim=layer.mlp.w1.out_features,
        norm_eps=getattr(layer.sa_norm, "eps", None),
        rope_base=float(rope.base),
        rope_scaling=scaling,
        tied=isinstance(decoder.output, TiedLinear),
        max_seq_len=decoder.max_seq_len,
    )


def _describe_config(decoder: TransformersDecoder) -> DecoderShape:
    config = decoder.config
    rope = getattr(config, "rope_parameters", None) or {}
    heads = config.num_attention_heads
    return DecoderShape(
        vocab_size=decoder.tok_embeddings.num_embeddings,
        embed_dim=decoder.tok_embeddings.embedding_dim,
        num_layers=len(decoder.layers),
        num_heads=heads,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate_dim=config.intermediate_size,
        norm_eps=None,
        rope_base=float(rope.get("rope_theta") or 0),
        rope_scaling=None,
        tied=False,
        max_seq_len=decoder.max_seq_len,
    )


def linear_shapes(decoder: Decoder) -> dict[str, tuple[int, int]]:
    """Return the linear maps of a decoder's layers: name in the decoder -> output and input width."""
    before = "model.layers" if isinstance(decoder, TransformersDecoder) else "layers"
    return {
        f"{before}.{name}": (part.out_features, part.in_features)
        for name, part in decoder.layers.named_modules()
        if isinstance(part, nn.Linear)
    }


def config_mismatches(shape: DecoderShape, config: Mapping[str, Any]) -> list[str]:
    """Compare a decoder with a Hugging Face ``config.json``.

    Args:
        shape: the decoder's.
        config: the file's content, as transformers 4 (``rope_theta``, ``rope_scaling``) or 5 (``rope_parameters``)
            writes it; what it does not say is not compared.

    Returns:
        One ``key: config value, builder's value`` for each difference.
    """
    rope = {**(config.get("rope_parameters") or {}), **(config.get("rope_scaling") or {})}
    pairs: list[tuple[str, Any, Any]] = [
        ("vocab_size", config.get("vocab_size"), shape.vocab_size),
        ("hidden_size", config.get("hidden_size"), shape.embed_dim),
        ("num_hidden_layers", config.get("num_hidden_layers"), shape.num_layers),
        ("num_attention_heads", config.get("num_attention_heads"), shape.num_heads),
        ("num_key_value_heads", config.get("num_key_value_heads"), shape.num_kv_heads),
        ("head_dim", config.get("head_dim"), shape.head_dim),
        ("intermediate_size", config.get("intermediate_size"), shape.intermediate_dim),
        ("rms_norm_eps", config.get("rms_norm_eps"), shape.norm_eps),
        ("rope_theta", config.get("rope_theta", rope.get("rope_theta")), shape.rope_base),
        ("partial_rotary_factor", config.get("partial_rotary_factor", rope.get("partial_rotary_factor")), 1.0),
    ]
    # A tied checkpoint can fill a decoder with a separate output, never the other way round.
    if shape.tied:
        pairs.append(("tie_word_embeddings", config.get("tie_word_embeddings"), True))
    differences = [f"{key} {found} (the builder: {made})" for key, found, made in pairs if not _same(found, made)]

    if "rope_parameters" in config or "rope_scaling" in config:
        found_scaling = _scaling(rope)
        if found_scaling != shape.rope_scaling:
            differences.append(f"rope_scaling {found_scaling or 'none'} (the builder: {shape.rope_scaling or 'none'})")
    return differences


def params_mismatches(shape: DecoderShape, params: Mapping[str, Any]) -> list[str]:
    """Compare a decoder with Meta's ``params.json``, as :func:`config_mismatches` does with Hugging Face's file."""
    vocabulary = params.get("vocab_size")
    pairs = [
        # Llama 2 writes -1: the size comes from its tokenizer.
        ("vocab_size", None if vocabulary == -1 else vocabulary, shape.vocab_size),
        ("dim", params.get("dim"), shape.embed_dim),
        ("n_layers", params.get("n_layers"), shape.num_layers),
        ("n_heads", params.get("n_heads"), shape.num_heads),
        ("n_kv_heads", params.get("n_kv_heads"), shape.num_kv_heads),
        ("norm_eps", params.get("norm_eps"), shape.norm_eps),
        ("rope_theta", params.get("rope_theta"), shape.rope_base),
        # Meta's own code takes an absent key as false.
        ("use_scaled_rope", params.get("use_scaled_rope", False), shape.rope_scaling is not None),
    ]
    return [f"{key} {found} (the builder: {made})" for key, found, made in pairs if not _same(found, made)]


def _same(found: Any, made: Any) -> bool:
    if found is None or made is None:
        return True
    if isinstance(made, float):
        return isinstance(found, int | float) and math.isclose(found, made, rel_tol=1e-6)
    return found == made


def _scaling(rope: Mapping[str, Any]) -> RopeScaling | str | None:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return None
    try:
        return RopeScaling(
            float(rope["factor"]),
            float(rope["low_freq_factor"]),
            float(rope["high_freq_factor"]),
            int(rope["original_max_position_embeddings"]),
        )
    except (KeyError, TypeError, ValueError):
        return str(kind)
