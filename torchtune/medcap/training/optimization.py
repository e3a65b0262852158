"""Optimizer, learning-rate schedule and gradient clipping, as a configuration asks for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from medcap.configuration import build
from medcap.errors import UserError


def build_optimizer(node: Mapping[str, Any], parameters: Iterable[nn.Parameter]) -> Optimizer:
    """The configured optimizer over the trainable parameters, which are fp32 master weights.

    Raises:
        UserError: if it refuses its arguments.
    """
    try:
        return build(node, list(parameters))
    except (TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"optimizer: {error}") from error


def build_scheduler(node: Mapping[str, Any] | None, optimizer: Optimizer, num_steps: int) -> LRScheduler | None:
    """The configured learning-rate schedule over ``num_steps`` optimizer steps, or None.

    Raises:
        UserError: if it refuses its arguments.
    """
    if node is None:
        return None
    try:
        return build({**node, "num_training_steps": num_steps}, optimizer)
    except (TypeError, ValueError) as error:
        raise UserError(f"lr_scheduler: {error}") from error


def scale_and_clip(parameters: list[nn.Parameter], scale: float, max_norm: float | None) -> torch.Tensor:
    """Multiply the accumulated gradients by a number, and clip them.

    Args:
        parameters: with the gradients of all accumulated batches.
        scale: the number, the same for all parameters.
        max_norm: largest gradient norm, None for no clipping.

    Returns:
        The norm before clipping, a scalar; 0 where nothing has a gradient.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients:
        return torch.zeros((), device=parameters[0].device if parameters else None)
    torch._foreach_mul_(gradients, scale)
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm
