"""A further component, as small as one can be: a factor for each number of an image token."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medcap.checkpoints.build_model import ModelPlan
from medcap.models.component import Component


class ImageGain(Component):
    """Multiplies image tokens.

    Args:
        dim: width of an image token.
        start: every factor's first value.
    """

    name = "image_gain"
    label = "image gain"

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.start = start
        self.factors = nn.Parameter(torch.full((dim,), start))

    def config(self) -> dict[str, Any]:
        return {"_component_": "helpers.image_gain.image_gain", "start": self.start}

    @classmethod
    def summary(cls, config: Mapping[str, Any]) -> str:
        return f"starts at {config['start']}"

    def attach(self, model: nn.Module) -> None:
        model.projector.register_forward_hook(lambda module, inputs, output: self(output))

    def forward(self, tokens: Tensor) -> Tensor:
        """``[N, K, d]`` -> the same."""
        return tokens * self.factors


def image_gain(plan: ModelPlan, start: float = 1.0) -> ImageGain:
    """Build the component for a model."""
    return ImageGain(plan.vision.llm_dim, start)
