"""CLIP's activation in a third of the memory, and in fewer walks over it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

_SCALE = 1.702  # of the sigmoid that stands for the normal distribution (https://github.com/hendrycks/GELUs)
_NAMES = ("QuickGELUActivation", "QuickGELU")  # transformers' and open_clip's class of the plain formula


class LeanQuickGELU(nn.Module):
    """x sigmoid(1.702 x), of which the backward pass keeps x alone."""

    def forward(self, states: Tensor) -> Tensor:
        """Return the activation of ``[..., d]``."""
        if torch.compiler.is_compiling():
            return states * torch.sigmoid(_SCALE * states)
        return _QuickGELU.apply(states)


class _QuickGELU(torch.autograd.Function):
    """y = silu(s x) / s, so dx = silu'(s x) dy."""

    @staticmethod
    def forward(ctx: Any, states: Tensor) -> Tensor:
        ctx.save_for_backward(states)
        # Not silu: in these steps every bit is that of the plain formula.
        return (states * _SCALE).sigmoid_().mul_(states)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> Tensor:
        (states,) = ctx.saved_tensors
        scaled = states * _SCALE
        return torch.ops.aten.silu_backward.grad_input(grad_output, scaled, grad_input=scaled)


def use_lean_quick_gelu(model: nn.Module) -> None:
    """Replace the activation of a CLIP encoder of transformers or open_clip, wherever the model has it.

    Args:
        model: changed in place; its parameters and their names stay.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child).__name__ in _NAMES:
                setattr(module, name, LeanQuickGELU())
