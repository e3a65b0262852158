"""Overlap of boxes, and which box of an answer belongs to which box of the reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from medcap.data.boxes.box import Box

Corners = tuple[float, float, float, float]  # left, top, right, bottom


def iou(first: Corners, second: Corners) -> float:
    """Intersection over union of two rectangles, in continuous coordinates.

    It does not change when an axis is scaled, so shares, thousandths and pixels of one image give the same number.

    Args:
        first: left, top, right and bottom; a rectangle with an area.
        second: the same.

    Returns:
        0..1.
    """
    common = _side(first, second, 0) * _side(first, second, 1)
    return common / (_area(first) + _area(second) - common)


def giou(first: Corners, second: Corners) -> float:
    """Generalised intersection over union (Rezatofighi et al., 2019, CVPR, algorithm 1).

    Args:
        first: left, top, right and bottom; a rectangle with an area.
        second: the same.

    Returns:
        The IoU minus the share of the smallest enclosing rectangle that neither of them covers: -1..1.
    """
    common = _side(first, second, 0) * _side(first, second, 1)
    union = _area(first) + _area(second) - common
    width = max(first[2], second[2]) - min(first[0], second[0])
    height = max(first[3], second[3]) - min(first[1], second[1])
    return common / union - (width * height - union) / (width * height)


def overlaps(
    references: Sequence[Box],
    predictions: Sequence[Box],
    measure: Callable[[Corners, Corners], float] = iou,
    apart: float = 0.0,
) -> np.ndarray:
    """Overlap of every box of the reference with every box of an answer.

    Args:
        references: r boxes.
        predictions: p boxes.
        measure: :func:`iou` or :func:`giou`.
        apart: value of two boxes on different images.

    Returns:
        [r, p] float64.
    """
    table = np.full((len(references), len(predictions)), apart)
    for row, wanted in enumerate(references):
        for column, given in enumerate(predictions):
            if wanted.image == given.image:
                table[row, column] = measure(wanted.edges, given.edges)
    return table


def best_pairs(gains: np.ndarray) -> list[tuple[int, int]]:
    """Pair rows with columns one to one so that the sum of the gains is largest (the assignment problem).

    Args:
        gains: [r, p] float.

    Returns:
        (row, column) of the pairs whose gain is above 0.
    """
    if min(gains.shape) == 0:
        return []
    if min(gains.shape) == 1:
        row, column = np.unravel_index(int(gains.argmax()), gains.shape)
        pairs = [(int(row), int(column))]
    else:
        from scipy.optimize import linear_sum_assignment  # here, because it is slow to import

        pairs = [(int(row), int(column)) for row, column in zip(*linear_sum_assignment(gains, True), strict=True)]
    return [pair for pair in pairs if gains[pair] > 0.0]


def pair_sum(gains: np.ndarray) -> float:
    """Return the largest sum of gains of pairs one to one; see :func:`best_pairs`."""
    return sum((float(gains[pair]) for pair in best_pairs(gains)), 0.0)


def num_hits(table: np.ndarray, threshold: float, strict: bool = False) -> int:
    """Return how many boxes are found: the most one-to-one pairs that reach an IoU.

    Args:
        table: [r, p] IoU of each pair, as :func:`overlaps` returns it.
        threshold: least IoU of a hit.
        strict: whether the IoU must be above the threshold.
    """
    reached = table > threshold if strict else table >= threshold
    return len(best_pairs(reached.astype(float)))


def _side(first: Corners, second: Corners, axis: int) -> float:
    return max(0.0, min(first[axis + 2], second[axis + 2]) - max(first[axis], second[axis]))


def _area(box: Corners) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])
