"""Pass values on as they are, and gradients smaller."""

from __future__ import annotations

from torch import Tensor


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """Return the values; what flows back through them is multiplied by ``factor``."""
    if factor == 1:
        return values
    return values.detach() + factor * (values - values.detach())
