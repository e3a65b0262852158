"""Losses of masks, each a value for each mask."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

_FOCAL_GAMMA, _FOCAL_ALPHA = 2.0, 0.25


def mask_bce(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Return the mean binary cross-entropy over the pixels that count.

    Args:
        logits: ``[M, n]``.
        target: ``[M, n]``, 0 to 1.
        counted: ``[M, n]``, 0 for padding and 1 for image.

    Returns:
        ``[M]``.
    """
    each = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    return _mean(each, counted)


def mask_dice(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Return 1 - (2 sum pg + 1e-6) / (sum p + sum g + 1e-6) over the pixels that count.

    Args:
        logits: ``[M, n]``.
        target: ``[M, n]``, 0 to 1.
        counted: ``[M, n]``, 0 for padding and 1 for image.

    Returns:
        ``[M]``.

    Source: MedPLIB, ``model/medplib/MedPLIB.py``, ``dice_loss``.
    """
    probability = logits.sigmoid() * counted
    shared = (probability * target).sum(dim=1)
    return 1 - (2 * shared + 1e-6) / (probability.sum(dim=1) + (target * counted).sum(dim=1) + 1e-6)


def mask_focal(logits: Tensor, target: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of -a g (1 - p)^2 log p - (1 - a)(1 - g) p^2 log(1 - p), a = 0.25, over the pixels that count.

    Args:
        logits: ``[M, n]``.
        target: ``[M, n]``, 0 to 1.
        counted: ``[M, n]``, 0 for padding and 1 for image.

    Returns:
        ``[M]``.

    Source: MedPLIB, ``model/medplib/MedPLIB.py``, ``FocalLoss``, whose 1e-12 within each logarithm is not needed where
    they are computed from logits.
    """
    probability = logits.sigmoid()
    inside = _FOCAL_ALPHA * target * (1 - probability) ** _FOCAL_GAMMA * functional.logsigmoid(logits)
    outside = (1 - _FOCAL_ALPHA) * (1 - target) * probability**_FOCAL_GAMMA * functional.logsigmoid(-logits)
    return _mean(-inside - outside, counted)


def mask_iou_error(logits: Tensor, target: Tensor, counted: Tensor, estimate: Tensor) -> Tensor:
    """Return (soft IoU - estimate)^2 with soft IoU = (sum pg + 1e-7) / (sum p + sum g - sum pg + 1e-7).

    Args:
        logits: ``[M, n]``.
        target: ``[M, n]``, 0 to 1.
        counted: ``[M, n]``, 0 for padding and 1 for image.
        estimate: ``[M]`` the IoU that the decoder expects of its mask.

    Returns:
        ``[M]``.

    Source: MedPLIB, ``model/medplib/MedPLIB.py``, ``MaskIoULoss``.
    """
    probability = logits.sigmoid() * counted
    shared = (probability * target).sum(dim=1)
    union = probability.sum(dim=1) + (target * counted).sum(dim=1) - shared
    return ((shared + 1e-7) / (union + 1e-7) - estimate) ** 2


def _mean(values: Tensor, counted: Tensor) -> Tensor:
    return (values * counted).sum(dim=1) / counted.sum(dim=1).clamp(min=1)
