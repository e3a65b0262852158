"""Towers, projectors and the vision-language model; what a configuration names as ``_component_`` is here by name."""

from __future__ import annotations

import importlib
from typing import Any

from medcap.models.projectors.registry import PROJECTORS

# name -> module that defines it; imported on first use, so that importing medcap.models costs nothing.
_COMPONENTS = {
    "added_words": "medcap.models.words",
    "llama3_tokenizer": "medcap.models.tokenizers",
    "mask_pooling": "medcap.models.region_encoders.mask_pooling",
    "patch_mask_decoder": "medcap.models.mask_decoders.patch_mask_decoder",
    "region_resampler": "medcap.models.region_encoders.region_resampler",
    "sam_mask_decoder": "medcap.models.mask_decoders.sam_mask_decoder",
    "transformers_decoder": "medcap.models.decoders.transformers_model",
    "transformers_tokenizer": "medcap.models.template_tokenizer",
    **{name: f"medcap.models.projectors.{name}" for name in PROJECTORS},
}


def __getattr__(name: str) -> Any:
    if name not in _COMPONENTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_COMPONENTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_COMPONENTS])
