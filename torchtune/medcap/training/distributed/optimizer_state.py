"""The state of an optimizer as checkpoints hold it, and the settings that are not part of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, optim


def argument_names(component: Callable[..., Any], optimizer: optim.Optimizer) -> set[str]:
    """Return the entries of a parameter group that no step changes: those of the configuration and the class."""
    makers = [component, *(kind.__init__ for kind in type(optimizer).__mro__ if kind not in (optim.Optimizer, object))]
    return {name for maker in makers for name in signature(maker).parameters} - {"params", "self"}


def comparable(value: Any) -> Any:
    """Return a setting as a file gives it back: a tuple is a list there."""
    return list(value) if isinstance(value, tuple) else value


def as_plain(value: Any) -> list[Any]:
    """Return a state as JSON holds it: whether it is a tensor, and its value."""
    return [True, value.item()] if isinstance(value, Tensor) else [False, value]


def restored(is_tensor: bool, value: Any) -> Any:
    """Undo :func:`as_plain`."""
    return torch.tensor(value, dtype=torch.float32) if is_tensor else value


def on_cpu(value: Any) -> Any:
    """Copy the tensors of a state to the CPU."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: on_cpu(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(on_cpu(item) for item in value)
    return value
