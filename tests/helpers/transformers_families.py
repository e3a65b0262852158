"""Small language models of transformers' families with random weights, as folders and as seeing models."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from helpers.tokenizers import tiny_vocab_size
from medcap.checkpoints.frozen_llm import plan_llm
from medcap.models.decoders.transformers_model import TransformersDecoder

# Less than a sample of ``packed_samples``, so that windows cut something off.
WINDOW = 5
_ALTERNATING = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": WINDOW}
_LONG = {"type": "longrope", "short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [3.0] * 4}
_EXPERTS = {"num_experts_per_tok": 2}
# Family -> name of its configuration, and what it has beyond the common shape.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", {"head_dim": 8}),
    "gemma3": ("Gemma3TextConfig", {"head_dim": 8, "query_pre_attn_scalar": 8, **_ALTERNATING}),
    "gpt_oss": ("GptOssConfig", {"head_dim": 8, "num_local_experts": 4, **_EXPERTS, **_ALTERNATING}),
    "phi": ("PhiConfig", {"tie_word_embeddings": False}),
    "phi3": ("Phi3Config", {"sliding_window": WINDOW, "original_max_position_embeddings": 64, "rope_scaling": _LONG}),
    "mistral": ("MistralConfig", {"sliding_window": WINDOW}),
    "llama": ("LlamaConfig", {"tie_word_embeddings": True}),
    "gemma2": ("Gemma2Config", {"head_dim": 8, "query_pre_attn_scalar": 8, **_ALTERNATING}),
    "granite": ("GraniteConfig", {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "attention_multiplier": 0.2}),
    "olmo3": ("Olmo3Config", _ALTERNATING),
    "qwen3_moe": ("Qwen3MoeConfig", {"head_dim": 8, "num_experts": 4, "moe_intermediate_size": 16, **_EXPERTS}),
    "glm4": ("Glm4Config", {"head_dim": 8}),
}


def family_config(family: str, **changes: Any) -> Any:
    """transformers' configuration of two layers of width 32 for the tokenizer of ``tiny_tokenizer_file``."""
    import transformers

    name, own = FAMILIES[family]
    shared = {
        "vocab_size": tiny_vocab_size(),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        **{f"{token}_token_id": None for token in ("pad", "bos", "eos")},
    }
    return getattr(transformers, name)(**{**shared, **own, **changes})


def write_family(folder: Path, family: str, **changes: Any) -> nn.Module:
    """Write a model as transformers does.

    Args:
        folder: where.
        family: one of ``FAMILIES``.
        changes: of the configuration.

    Returns:
        transformers' own model of the folder, in evaluation mode.
    """
    from transformers import AutoModelForCausalLM, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(family_config(family, **changes), attn_implementation="eager").eval()
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1:
                # Weak embeddings: where the head is tied to them, a token would else predict itself for ever.
                nn.init.normal_(parameter, std=0.05 if "embed_tokens" in name else 0.3)
            else:
                parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return model.requires_grad_(False)


def load_family(folder: Path, **options: Any) -> TransformersDecoder:
    """Load a folder as medcap does; ``options`` are those of ``plan_llm``."""
    decoder = plan_llm("medcap.models.transformers_decoder", folder, **options).load("cpu", torch.float32)
    assert isinstance(decoder, TransformersDecoder)
    return decoder


def plain_logits(model: Any, embeddings: Tensor) -> Tensor:
    """transformers' own forward pass: ``[R, S, d] -> [R, S, V]``."""
    return model(inputs_embeds=embeddings, use_cache=False).logits
