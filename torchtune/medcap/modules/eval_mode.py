"""Modules in the state in which they answer, and back."""

from __future__ import annotations

from collections import abc
from contextlib import contextmanager

import torch


@contextmanager
def eval_mode(model: torch.nn.Module) -> abc.Generator[None]:
    """Put every part into eval mode, and each back into its own mode afterwards.

    Args:
        model: a part of it may be in eval mode already, as frozen normalisation layers are.
    """
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in modes:
            module.training = training
