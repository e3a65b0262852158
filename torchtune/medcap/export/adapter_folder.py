"""Adapters in PEFT's layout: ``adapter_model.safetensors`` and ``adapter_config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from torchtune.models.convert_weights import tune_to_peft_adapter_weights

from medcap.checkpoints.llm_architecture import DecoderShape
from medcap.files import write_json
from medcap.models.llm_lora import ALL_LINEAR, TARGETS

FOLDER = "adapter"
WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"
MERGED = "the adapters are merged into the language model's weights, which are not the original ones"
APART = "adapter/ holds the adapters for PEFT; without them the folder is the untouched language model"
# torchtune writes the names of a bare language model; in transformers' LLaVA it is a part of the model.
_ALONE, _WITHIN_LLAVA = "base_model.model.model.", "base_model.model.model.language_model."


def write_adapter(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor], shape: DecoderShape, base: str | None
) -> None:
    """Write the adapters of a run for the LLaVA folder that they belong to.

    The names are those that PEFT makes of ``LlavaForConditionalGeneration`` in transformers 5, and that serving engines
    look for: ``base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.weight``.

    Args:
        folder: made if it is not there.
        config: as ``LanguageModelAdapters.config`` gives it.
        tensors: its state, under torchtune's names.
        shape: of the decoder, a Llama.
        base: name of the model on the hub that they belong to, if it is known.
    """
    folder.mkdir(parents=True, exist_ok=True)
    converted = tune_to_peft_adapter_weights(
        {name: tensor.detach().float() for name, tensor in tensors.items()},
        num_heads=shape.num_heads,
        num_kv_heads=shape.num_kv_heads,
        dim=shape.embed_dim,
        head_dim=shape.head_dim,
    )
    named = {name.replace(_ALONE, _WITHIN_LLAVA, 1): tensor.contiguous() for name, tensor in converted.items()}
    save_file(named, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    targets = config["targets"]
    names = list(TARGETS) if targets == ALL_LINEAR else [targets] if isinstance(targets, str) else list(targets)
    write_json(
        folder / CONFIG_FILE,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": config["rank"],
            "lora_alpha": config["alpha"],
            "lora_dropout": config["dropout"],
            "use_rslora": config["rank_stabilised"],
            # The vision tower has maps of the same names.
            "target_modules": rf".*language_model\.layers\.\d+\.(?:self_attn|mlp)\.(?:{'|'.join(names)})",
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
        },
    )
