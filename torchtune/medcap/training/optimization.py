"""Optimizer, learning-rate schedule and gradient clipping, as a configuration asks for them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from medcap.errors import UserError
from medcap.instantiate import build
from medcap.plurals import counted
from medcap.training.keys import TrainingConfiguration


def build_optimizer(node: Mapping[str, Any], parameters: Iterable[nn.Parameter] | list[dict[str, Any]]) -> Optimizer:
    """Return the configured optimizer over the trainable parameters, which are fp32 master weights.

    Args:
        node: ``_component_`` and arguments.
        parameters: or groups of them, each with ``params`` and its own arguments.

    Raises:
        UserError: if it refuses its arguments.
    """
    return build(node, list(parameters), key="optimizer")


def build_scheduler(
    node: Mapping[str, Any] | None, optimizer: Optimizer, num_steps: int, steps_made: int = 0
) -> LRScheduler | None:
    """Return the configured learning-rate schedule, or None.

    Args:
        node: ``_component_`` and arguments; None for a constant learning rate.
        optimizer: optimizer with the learning rate that the schedule multiplies.
        num_steps: optimizer steps of the whole run.
        steps_made: steps made before a resume. The schedule is advanced to that step: a saved one would bring the
            learning rate and the length of the run that saved it.

    Raises:
        UserError: if it refuses its arguments.
    """
    if node is None:
        return None
    scheduler = build({**node, "num_training_steps": num_steps}, optimizer, key="lr_scheduler")
    with warnings.catch_warnings():
        # torch warns when a schedule steps before the optimizer does.
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(steps_made):
            scheduler.step()
    return scheduler


def check_optimization(cfg: TrainingConfiguration, device: torch.device) -> None:
    """See that optimizer and schedule take their arguments, before any weight is read.

    Args:
        cfg: configuration of the training.
        device: device of what will train.

    Raises:
        UserError: if one of them refuses its arguments.
    """
    optimizer = build_optimizer(cfg.optimizer, [nn.Parameter(torch.zeros(1, device=device))])
    build_scheduler(cfg.lr_scheduler, optimizer, num_steps=1)
    wanted = {
        key: f"trainable.{name}.{key}" for name in cfg.trainable for key in component_options(cfg.trainable, name)
    }
    if cfg.weight_decay_of != "all":
        wanted["weight_decay"] = f"weight_decay_of={cfg.weight_decay_of}"
    for key, where in wanted.items():
        if key not in optimizer.defaults:
            raise UserError(f"{where}: {type(optimizer).__name__} has no {key}; leave it out, or use torch.optim.AdamW")


def component_options(trainable: list[str] | Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Return the arguments of the optimizer that a component has of its own.

    Args:
        trainable: value of the key ``trainable``.
        name: name of the component.
    """
    return trainable.get(name, {}) if isinstance(trainable, Mapping) else {}


def learning_rate_notes(cfg: TrainingConfiguration, num_steps: int) -> list[str]:
    """Lines about settings with which a run learns next to nothing.

    Args:
        cfg: configuration of the training.
        num_steps: optimizer steps of the whole run.
    """
    notes = []
    if cfg.optimizer.get("lr") == 0:
        notes.append("note: optimizer.lr=0: nothing will change")
    warmup = None if cfg.lr_scheduler is None else cfg.lr_scheduler.get("num_warmup_steps")
    if isinstance(warmup, int) and warmup >= num_steps:
        notes.append(
            f"note: lr_scheduler.num_warmup_steps={warmup} is not less than the run's {counted(num_steps, 'step')}: the"
            " learning rate never reaches optimizer.lr"
        )
    return notes


def scale_and_clip(parameters: list[nn.Parameter], scale: float, max_norm: float | None) -> torch.Tensor:
    """Multiply the accumulated gradients by a number, and clip them.

    Args:
        parameters: parameters with the gradients of all accumulated batches.
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
