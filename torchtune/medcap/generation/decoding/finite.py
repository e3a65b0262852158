"""Numbers that are not finite: an answer with one is a failure, and says which part of the model gave it."""

from __future__ import annotations

import torch
from torch import Tensor

from medcap.errors import UserError

# What such a failure ends with.
NOT_FINITE = "output is not finite"


def not_finite(part: str) -> str:
    """Return the failure of a part of the model."""
    return f"the {part}'s {NOT_FINITE}"


def check_finite(part: str, *values: Tensor) -> None:
    """Raise ``UserError``, which names the part of the model, unless all its values are finite."""
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise UserError(not_finite(part))
