"""Adapters as PEFT and LLaVA-like trainers write them, over a small random Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import LlamaForCausalLM

from medcap.models.llm_lora import TARGETS

ALL = sorted(TARGETS)
TOWER = "base_model.model.model.vision_tower.vision_tower.vision_model."


def llava_like(llm: Path) -> LlamaForCausalLM:
    """A Llama that holds a projector where LLaVA and Bunny have it."""
    model = LlamaForCausalLM.from_pretrained(llm)
    torch.manual_seed(1)
    model.model.mm_projector = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 32))
    return model


def trained(model: nn.Module, config: LoraConfig) -> PeftModel:
    """The model with adapters that change its answers."""
    peft = get_peft_model(model, config)
    torch.manual_seed(2)
    with torch.no_grad():
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.15)
    return peft.eval()


def write_llava_trainer(tmp_path: Path, **options: Any) -> PeftModel:
    """What LLaVA's trainer saves of a run with LoRA."""
    config = LoraConfig(**{"r": 4, "lora_alpha": 12, "target_modules": ALL, "task_type": "CAUSAL_LM", **options})
    peft = trained(llava_like(tmp_path / "llm"), config)
    folder = tmp_path / "lora"
    peft.save_pretrained(folder)
    others = {name: p.detach() for name, p in peft.named_parameters() if "mm_projector" in name and "lora_" not in name}
    assert "base_model.model.model.mm_projector.0.weight" in others
    torch.save(others, folder / "non_lora_trainables.bin")
    return peft


def write_projector(tmp_path: Path) -> Path:
    """A linear projector's own file."""
    torch.manual_seed(1)
    tensors = {"model.mm_projector.weight": torch.randn(32, 16), "model.mm_projector.bias": torch.randn(32)}
    torch.save(tensors, tmp_path / "mm_projector.bin")
    return tmp_path / "mm_projector.bin"
