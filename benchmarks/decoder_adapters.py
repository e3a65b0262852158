"""Adapters of a decoder that no configuration describes."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn

from medcap.models.decoders.transformers_model import Decoder
from medcap.models.llm_lora import LanguageModelAdapters, llm_lora

RANK = 16


def adapters_for(decoder: Decoder) -> LanguageModelAdapters:
    """Build adapters of rank ``RANK`` for all linear maps of the layers.

    Args:
        decoder: on any device; the adapters are made on the default device.
    """
    shapes = {
        f"layers.{name}": (part.out_features, part.in_features)
        for name, part in decoder.layers.named_modules()
        if isinstance(part, nn.Linear)
    }
    plan: Any = SimpleNamespace(llm=SimpleNamespace(linear_shapes=lambda: shapes))
    return llm_lora(plan, RANK)
