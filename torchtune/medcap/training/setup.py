"""What every training recipe does first: seeds, the banner, and what is computed again."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn

from medcap.checkpoints.build_model import ModelPlan
from medcap.compiler import compile_for_own_threads
from medcap.errors import UserError
from medcap.models.lora_experts import SEQUENCE, TOKEN
from medcap.models.vision_language_model import VisionLanguageModel
from medcap.training.keys import TrainingConfiguration
from medcap.training.trainable import set_trainable


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch.

    Args:
        seed: seed, from 0; NumPy gets its remainder within 32 bits.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def checkpointed_layers(cfg: TrainingConfiguration, num_layers: int) -> int:
    """Return how many of the decoder's layers are computed again in the backward pass.

    Args:
        cfg: ``activation_memory_budget`` is the share of the layers whose activations are kept;
            ``enable_activation_checkpointing`` keeps none.
        num_layers: number of decoder layers.

    Raises:
        UserError: for a budget above 1, or two different answers.
    """
    budget = cfg.activation_memory_budget
    if budget > 1:
        raise UserError(f"activation_memory_budget={budget}: it is a share of the layers, from 0 to 1 (1 keeps all)")
    if cfg.enable_activation_checkpointing and 0 < budget < 1:
        raise UserError(
            f"activation_memory_budget={budget} and enable_activation_checkpointing=true, which is a budget of 0: give"
            " only one of them"
        )
    return num_layers if cfg.enable_activation_checkpointing else round(num_layers * (1 - budget))


def prepare_model(model: VisionLanguageModel, cfg: TrainingConfiguration) -> dict[str, nn.Parameter]:
    """Set what a configuration says of a loaded model.

    Args:
        model: changed in place.
        cfg: configuration of the training.

    Returns:
        The trainable parameters by name.
    """
    model.checkpointed_layers = checkpointed_layers(cfg, len(model.decoder.layers))
    if compiles(cfg, model.device):
        compile_for_own_threads()
        model.compile_layers(static=cfg.dataset.get("packed", False))
    return set_trainable(model, cfg.trainable)


def compiles(cfg: TrainingConfiguration, device: torch.device) -> bool:
    """Return whether a run compiles the language model's layers."""
    if cfg.compile is None:
        return device.type == "cuda" and bool(cfg.dataset.get("packed", False))
    return cfg.compile


def speed_notes(cfg: TrainingConfiguration, device: torch.device) -> list[str]:
    """Lines about settings with which a run is slower than it need be."""
    if cfg.llm_weights == "fp8" and device.type == "cuda" and not compiles(cfg, device):
        return [
            "note: llm_weights=fp8 without compile=true: numbers are converted to 8 bits by kernels of their own, which"
            " can take longer than the products save; set compile=true"
        ]
    return []


def chooses_by_question(cfg: TrainingConfiguration, plan: ModelPlan) -> bool:
    """Return whether a model chooses its experts once for each question, so that questions can share nothing.

    Args:
        cfg: configuration of the training.
        plan: plan of the model.

    Raises:
        UserError: if what is learnt begins within the question, whose end would not be known.
    """
    if not any(part.config.get("router") == SEQUENCE for part in plan.further):
        return False
    for key in ("train_on_input", "train_on_header"):
        if cfg.dataset.get(key):
            raise UserError(
                f"dataset.{key}=true: llm_lora.router={SEQUENCE} reads the words before the first that is learnt, as"
                f" generation has them; set dataset.{key}=false, or router={TOKEN}"
            )
    return True


def wants_meta_model(wanted: bool | str, plan: ModelPlan) -> bool:
    """Return what the key ``save_meta_model`` means for a model.

    Args:
        wanted: True, False or ``auto``: where it is possible.
        plan: plan of the model.

    Raises:
        UserError: if medcap 2024's file is wanted but cannot hold the projector.
    """
    projector = plan.vision.projector_config["_component_"]
    possible = projector == "medcap.models.pooled_mlp" and not plan.vision.preprocess.tiles
    if wanted is True and plan.vision.preprocess.tiles:
        raise UserError("save_meta_model=true: medcap 2024's file cannot say vision.tiles; use save_meta_model=auto")
    if wanted is True and not possible:
        raise UserError(
            "save_meta_model=true: medcap 2024's file can only hold projector=medcap.models.pooled_mlp, not"
            f" {projector}; use save_meta_model=auto or false"
        )
    return possible and wanted is not False
