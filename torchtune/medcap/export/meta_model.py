"""A run's vision side as medcap 2024's ``meta_model.pt``."""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig

from medcap.checkpoints.vision import plan_vision
from medcap.checkpoints.vision_files import find_vision_checkpoint, read_vision_checkpoint, save_meta_model
from medcap.errors import UserError
from medcap.models.towers.registry import NAMED_TOWERS, same_architecture

FILE = "meta_model.pt"
_POOLED_MLP = "medcap.models.pooled_mlp"


def write_meta_model(folder: Path, cfg: DictConfig, dtype: torch.dtype | None) -> list[str]:
    """Write ``meta_model.pt``; the language model is not needed and not part of it.

    Args:
        folder: exists.
        cfg: as ``read_run`` gives it.
        dtype: of the stored weights; None is medcap's own, bf16.

    Returns:
        Lines that the user should see.

    Raises:
        UserError: for another projector than ``pooled_mlp``.
    """
    saved = read_vision_checkpoint(find_vision_checkpoint(Path(cfg.vision_checkpoint)))
    component = saved.projector_config.get("_component_")
    if component != _POOLED_MLP:
        raise UserError(
            f"--format medcap: a meta_model file can only hold projector={_POOLED_MLP}, and this run has {component};"
            " --format hf takes medcap.models.mlp"
        )
    plan = plan_vision(None, cfg.vision_checkpoint, saved.projector_config, saved.llm["dim"])
    tower, projector = plan.build()
    save_meta_model(folder / FILE, tower, projector, dtype or torch.bfloat16)
    if same_architecture(plan.tower_spec, NAMED_TOWERS["biomedclip"].spec):
        return list(plan.notices)
    return [*plan.notices, f"medcap 2024 itself builds BiomedCLIP and no other tower; {FILE} is for medcap import"]
