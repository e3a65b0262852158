"""Adapters in a run's folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.build_model import ComponentPlan, plan_model
from medcap.checkpoints.run import read_run
from medcap.checkpoints.vision_files import read_vision_checkpoint, save_components


def with_adapters(run: Path, **options: Any) -> Path:
    """Put adapters that change the answers into a run.

    Args:
        run: the folder that ``write_run`` made.
        options: options of ``llm_lora``.

    Returns:
        The run's folder.
    """
    plan = plan_model(read_run(run))
    torch.manual_seed(5)
    adapters = ComponentPlan("llm_lora", {"_component_": "medcap.models.llm_lora.llm_lora", **options}).build(plan)
    with torch.no_grad():
        for parameter in adapters.parameters():
            parameter.normal_(std=0.15)
    step = latest_checkpoint(run)
    assert step is not None
    saved = read_vision_checkpoint(step / "vision.safetensors")
    parts = [*plan.vision.build(), adapters]
    save_components(step, [part.state() for part in parts], saved.llm)
    return run
