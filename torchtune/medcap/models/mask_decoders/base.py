"""What a mask decoder is: its losses, and the word that asks for a mask."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from medcap.data.batch import Batch
from medcap.data.target_tensors import MASK_BCE, MASK_DICE, MASK_FOCAL, MASK_IOU, MASK_LOOK, MASK_SEEN
from medcap.errors import UserError
from medcap.models.component import Component
from medcap.models.object_query import look_loss, sizes_in_words
from medcap.modules.gradient_scale import scale_gradient
from medcap.modules.mask_losses import mask_bce, mask_dice, mask_focal, mask_iou_error


class Outlined(NamedTuple):
    """Masks of M objects.

    Attributes:
        logits: ``[M, side, side]`` float32 over the picture that was looked at; above 0 inside.
        estimate: ``[M]`` the IoU that the decoder expects of each, 0 to 1.
        seen: ``[M]`` positive where the picture shows the object, else negative; the sigmoid of it is the probability.
        scores: ``[M, T]`` how well each patch of a square grid answers what is asked; None of a decoder that looks at
            none.
    """

    logits: Tensor
    estimate: Tensor
    seen: Tensor
    scores: Tensor | None = None


class MaskDecoder(Component):
    """Gives a mask for each ``<SEG>`` of an answer: its hidden state is the query.

    Attributes:
        gradient_scale: what the gradient is multiplied by that flows from masks through the language model into
            its input. The tower's own patch tokens get theirs whole.
    """

    name = "mask_decoder"
    label = "mask decoder"
    builder = "medcap.models.patch_mask_decoder"
    loss_terms = (MASK_BCE, MASK_DICE, MASK_FOCAL, MASK_IOU, MASK_SEEN, MASK_LOOK)
    loss_weights: ClassVar[Mapping[str, float]] = {
        MASK_BCE: 2.0,
        MASK_DICE: 1.0,
        MASK_FOCAL: 0.0,
        MASK_IOU: 0.1,
        MASK_SEEN: 1.0,
        MASK_LOOK: 2.0,
    }
    needs_words = True
    gradient_scale: float

    @classmethod
    def summary(cls, config: Mapping[str, Any]) -> str:
        """Name the size, or the model that it is a part of."""
        return str(config["model"]) if "model" in config else sizes_in_words(config)

    @abstractmethod
    def forward(self, hidden: Tensor, patches: Tensor | None, pictures: Tensor, which: Tensor) -> Outlined:
        """Outline objects.

        Args:
            hidden: ``[M, d]`` hidden states before the decoder's final norm.
            patches: ``[P, T, D]`` patch tokens of pictures; None where ``reads_patches`` is false.
            pictures: ``[P, 3, H, W]`` uint8: the tower's, or the decoder's own where it has ``own_picture``.
            which: ``[M]`` int64, the picture that each object is on.
        """

    def losses(self, batch: Batch, hidden: Tensor, patches: Tensor | None) -> dict[str, Tensor]:
        """Compare the masks of a batch with its targets."""
        targets, there = batch.mask_targets, batch.mask_seen
        pictures, which = batch.masked_images, batch.masked_which
        if targets is None or there is None or batch.mask_positions is None or pictures is None or which is None:
            return dict.fromkeys(self.loss_terms, torch.zeros((), device=hidden.device))
        shown = batch.images if self.own_picture is None else batch.mask_pictures
        assert shown is not None, "every mask lies on a picture of the batch"
        predicts = torch.searchsorted(batch.target_positions, batch.mask_positions)  # [M]
        states = scale_gradient(hidden[predicts], self.gradient_scale)
        seen_patches = None
        if self.reads_patches:
            assert patches is not None, "they are kept for it"
            seen_patches = patches[pictures]
        # A picture with several masks is looked at once.
        found = self(states, seen_patches, shown[pictures], which)
        logits = found.logits.flatten(1)  # [M, side * side]
        target, counted = (targets.flatten(2).float() / 255).unbind(dim=1)  # [M, side * side] each
        counted = (counted > 0).float()
        each = {
            MASK_BCE: mask_bce(logits, target, counted),
            MASK_DICE: mask_dice(logits, target, counted),
            MASK_FOCAL: mask_focal(logits, target, counted),
            MASK_IOU: mask_iou_error(logits, target, counted, found.estimate),
        }  # [M]
        # A mask that is not there has no outline.
        terms = {name: (values * there).sum() for name, values in each.items()}
        terms[MASK_SEEN] = functional.binary_cross_entropy_with_logits(found.seen, there, reduction="sum")
        if found.scores is not None:
            grid = math.isqrt(found.scores.shape[1])
            covered = functional.adaptive_avg_pool2d(targets[:, 0].float() / 255, grid).flatten(1)  # [M, T]
            terms[MASK_LOOK] = look_loss(found.scores, covered).sum()
        return terms


def check_gradient_scale(value: Any) -> float:
    """Return ``mask_decoder.gradient_scale``; raise ``UserError`` unless it is a number from 0 to 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"mask_decoder.gradient_scale={value!r} must be a number from 0 to 1")
    return float(value)
