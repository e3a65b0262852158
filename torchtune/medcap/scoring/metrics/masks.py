"""Overlap and distance of masks of pixels."""

from __future__ import annotations

from typing import Any

import numpy as np


def resize_nearest(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resize a mask: each pixel gets the value of the pixel in which its centre lies.

    Args:
        mask: ``[h, w]`` bool.
        shape: height and width of the result.

    Returns:
        ``[H, W]`` bool; the same array where it has this size.
    """
    if mask.shape == shape:
        return mask
    # (i + 1/2) * old / new, in whole numbers
    rows, columns = ((2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(mask.shape, shape, strict=True))
    return mask[rows[:, None], columns]


def overlap(first: np.ndarray, second: np.ndarray) -> tuple[int, int]:
    """Return the pixels of the intersection and of the union of two masks ``[H, W]`` bool."""
    return int(np.count_nonzero(first & second)), int(np.count_nonzero(first | second))


def dice_and_iou(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return Dice and IoU of two masks ``[H, W]`` bool, of which at least one has a pixel inside."""
    common, union = overlap(first, second)
    return 2 * common / (union + common), common / union  # the intersection counts twice in the sum of the two areas


def hausdorff_95(first: np.ndarray, second: np.ndarray) -> float:
    """Return the 95 % Hausdorff distance of two masks, as MONAI's ``compute_hausdorff_distance`` defines it.

    The border of a mask is those of its pixels that have one of their four neighbours outside it, or lie on the border
    of the image. The distance is the larger of the two 95th percentiles of the distances of one mask's border pixels to
    the other's border.

    Args:
        first: ``[H, W]`` bool, not empty.
        second: ``[H, W]`` bool, not empty.

    Returns:
        The distance in pixels.
    """
    from scipy.spatial import KDTree  # here, because it is slow to import

    borders = [np.argwhere(_border(mask)) for mask in (first, second)]  # [n, 2]
    away: list[float] = []
    for border, other in (borders, borders[::-1]):
        # A tree of the few border pixels: a distance transform looks at every pixel of the image.
        distances: Any = KDTree(other).query(border)[0]
        away.append(float(np.percentile(distances, 95)))
    return max(away)


def _border(mask: np.ndarray) -> np.ndarray:
    """Return the border pixels of a mask: what is beyond its array counts as outside."""
    padded = np.pad(mask, 1)
    inner = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inner
