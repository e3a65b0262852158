"""A run's vision side as medcap 2024's ``meta_model.pt``."""

from __future__ import annotations

from pathlib import Path

import torch

from medcap.checkpoints.vision import VisionPlan
from medcap.checkpoints.vision_files import POOLED_MLP, save_meta_model
from medcap.errors import UserError
from medcap.models.towers.registry import NAMED_TOWERS, same_architecture

FILE = "meta_model.pt"


def write_meta_model(folder: Path, plan: VisionPlan, dtype: torch.dtype | None) -> list[str]:
    """Write ``meta_model.pt``; the language model is not part of it.

    Args:
        folder: exists.
        plan: plan of the run's vision side.
        dtype: dtype of the stored weights; None is medcap 2024's own, bf16.

    Returns:
        Lines that the user should see.

    Raises:
        UserError: for another projector than ``pooled_mlp``.
    """
    component = plan.projector_config.get("_component_")
    if component != POOLED_MLP:
        raise UserError(
            f"--format medcap: a meta_model file can only hold projector={POOLED_MLP}, and this run has {component};"
            " --format hf takes medcap.models.mlp"
        )
    if plan.preprocess.tiles:
        raise UserError(
            "--format medcap: a meta_model file cannot say that images are cut into tiles, as this run's are"
        )
    tower, projector = plan.build()
    save_meta_model(folder / FILE, tower.state(), projector.state(), dtype or torch.bfloat16)
    if same_architecture(plan.tower_spec, NAMED_TOWERS["biomedclip"].spec):
        return []
    return [f"medcap 2024 itself builds BiomedCLIP and no other tower; {FILE} is for medcap import"]
