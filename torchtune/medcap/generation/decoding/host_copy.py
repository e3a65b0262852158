"""Copies from the host to the model's device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def copy_together(arrays: Sequence[np.ndarray | Sequence[int]], device: torch.device) -> list[Tensor]:
    """Copy whole numbers to a device, all by one copy: on a GPU each copy is a wait.

    Args:
        arrays: arrays of any shapes.
        device: where they are wanted.

    Returns:
        An int64 tensor of each array, of its shape.
    """
    numbers = [np.asarray(array, dtype=np.int64) for array in arrays]
    flat = torch.from_numpy(np.concatenate([array.ravel() for array in numbers])).to(device)
    parts = flat.split([array.size for array in numbers])
    return [part.view(array.shape) for part, array in zip(parts, numbers, strict=True)]
