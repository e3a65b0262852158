"""Masks on the square that a tower is shown, and back on the original image."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medcap.data.boxes.frame import Frame


def shown_mask(mask: np.ndarray, frame: Frame, side: int) -> np.ndarray:
    """Lay a mask into the square that a tower is shown of its image.

    Args:
        mask: ``[H, W]`` bool, at the original image's size.
        frame: where the parts of the image lie in the square.
        side: side of the result in pixels.

    Returns:
        ``[2, side, side]`` uint8: how much of each pixel is inside the mask, and how much of it is image rather than
        padding; 255 for all of it.
    """
    width, height = frame.size
    # How much of a pixel is image is a matter of its column and its row alone.
    columns, rows = (
        _mean_of_cells(np.ones(length), 0, scale, shift, side)
        for length, (scale, shift) in zip((width, height), frame.axes(), strict=True)
    )
    parts = covered(mask, frame, side), np.outer(rows, columns)
    return np.stack([np.rint(255 * part).astype(np.uint8) for part in parts])


def covered(mask: np.ndarray, frame: Frame, side: int) -> np.ndarray:
    """Return how much of each cell of the square a mask covers.

    Args:
        mask: ``[H, W]`` bool, at the original image's size.
        frame: where the parts of the image lie in the square.
        side: cells along a side of the square.

    Returns:
        ``[side, side]`` float64, 0 to 1.
    """
    values = mask.astype(np.float32)
    for axis, (scale, shift) in zip((1, 0), frame.axes(), strict=True):
        values = _mean_of_cells(values, axis, scale, shift, side)
    return values.astype(np.float64, copy=False)


def original_mask(logits: Tensor, frame: Frame) -> np.ndarray:
    """Read a mask off at the centres of the original image's pixels, the inverse of :func:`shown_mask`.

    Args:
        logits: ``[side, side]``, above 0 inside.
        frame: where the parts of the image lie in the square.

    Returns:
        ``[H, W]`` bool; what the tower was not shown is outside.
    """
    width, height = frame.size
    axes = []
    for length, (scale, shift) in zip((width, height), frame.axes(), strict=True):
        shares = (torch.arange(length, device=logits.device, dtype=torch.float32) + 0.5) / length * scale + shift
        axes.append(shares)
    x, y = axes
    grid = torch.stack(torch.broadcast_tensors(2 * x[None] - 1, 2 * y[:, None] - 1), dim=-1)  # [H, W, 2]
    values = functional.grid_sample(
        logits.float()[None, None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0, 0]
    shown = ((x >= 0) & (x <= 1))[None] & ((y >= 0) & (y <= 1))[:, None]
    return ((values > 0) & shown).cpu().numpy()


def _mean_of_cells(values: np.ndarray, axis: int, scale: float, shift: float, side: int) -> np.ndarray:
    """Average over each of the square's cells along one axis; what lies beyond the image counts as 0.

    Args:
        values: of the image.
        axis: the axis.
        scale: a share of the image x scale + shift = a share of the square.
        shift: see ``scale``.
        side: cells of the square.
    """
    length = values.shape[axis]
    if (length, scale, shift) == (side, 1, 0):
        return values
    edges = (np.arange(side + 1) / side - shift) / scale * length  # in pixels of the image
    inside = np.clip(edges, 0, length)
    below = np.minimum(inside.astype(np.int64), length - 1)
    sums = np.cumsum(values, axis=axis, dtype=np.float64)
    sums = np.concatenate([np.zeros_like(sums.take([0], axis)), sums], axis=axis)  # up to each pixel's first edge
    part = (inside - below).reshape([-1 if number == axis else 1 for number in range(values.ndim)])
    up_to = sums.take(below, axis) + part * values.take(below, axis)
    return np.diff(up_to, axis=axis) / (edges[1] - edges[0])
