"""The boxes, masks and regions of packed rows as tensors of a batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medcap.data.images.reference import ImageRef
from medcap.data.packing import PackedRow

# Loss terms of batches with boxes: how far each that is there is from its target, whether it is there, and which
# patches hold it.
BOX_L1, BOX_GIOU, BOX_SEEN, BOX_LOOK = "box_l1", "box_giou", "box_seen", "box_look"
# Those of batches with masks: by pixels, by area, by pixels that are hard to tell, how well a mask's own estimate of
# its IoU is met; whether it is there, and which patches hold it.
MASK_BCE, MASK_DICE, MASK_FOCAL, MASK_IOU = "mask_bce", "mask_dice", "mask_focal", "mask_iou"
MASK_SEEN, MASK_LOOK = "mask_seen", "mask_look"


def target_tensors(
    rows: Sequence[PackedRow],
    pictures: Sequence[Tensor],
    row_length: int,
    mask_picture: Callable[[ImageRef], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return the fields of a batch's boxes, masks and regions; none without any.

    Args:
        rows: rows of the batch.
        pictures: ``[n, 3, H, W]`` of each image of the rows. A target lies on the first one, which shows the whole
            image.
        row_length: S.
        mask_picture: as for ``make_batch``.
    """
    first_picture = np.cumsum([0, *map(len, pictures)])
    first_image = np.cumsum([0, *(len(row.images) for row in rows)])

    def placed(targets: Sequence[tuple[int, Any]], name: str) -> dict[str, Tensor]:
        images = [int(first_picture[first_image[number] + one.image]) for number, one in targets]
        return {
            f"{name}_images": torch.tensor(images),  # [M]
            f"{name}_positions": torch.tensor([number * row_length + one.position for number, one in targets]),  # [M]
        }

    found: dict[str, Tensor] = {}
    boxes = [(number, box) for number, row in enumerate(rows) for box in row.boxes]
    if boxes:
        found["box_targets"] = torch.tensor(
            [box.edges or (0.0,) * 4 for _, box in boxes], dtype=torch.float32
        )  # [M, 4]
        found["box_seen"] = torch.tensor([float(box.edges is not None) for _, box in boxes])  # [M]
        found |= placed(boxes, "box")
    masks = [(number, mask) for number, row in enumerate(rows) for mask in row.masks]
    if masks:
        shown = [mask.shown for _, mask in masks if mask.shown is not None]
        assert len(shown) == len(masks), "they are drawn when their images are loaded"
        found["mask_targets"] = torch.from_numpy(np.stack(shown))  # [M, 2, side, side]
        found["mask_seen"] = torch.tensor([float(mask.region is not None) for _, mask in masks])  # [M]
        found |= placed(masks, "mask")
        if mask_picture is not None:
            images = [rows[number].images[mask.image] for number, mask in masks]
            distinct = list(dict.fromkeys(images))
            found["mask_pictures"] = torch.stack([mask_picture(image) for image in distinct])  # [P, 3, S, S]
            found["mask_images"] = torch.tensor([distinct.index(image) for image in images])  # [M]
        found |= masked_images(found["mask_images"])
    regions = [(number, region) for number, row in enumerate(rows) for region in row.regions]
    if regions:
        weights = [region.weights for _, region in regions if region.weights is not None]
        assert len(weights) == len(regions), "they are drawn when their images are loaded"
        found["region_weights"] = torch.from_numpy(np.stack(weights))  # [Q, T]
        found |= placed(regions, "region")
    return found


def masked_images(mask_images: Tensor | None) -> dict[str, Any]:
    """Return which pictures have masks, and which of them each mask lies on.

    Args:
        mask_images: ``[M]`` int64, the picture of each mask; None without masks.

    Returns:
        The fields ``masked_images`` and ``masked_which`` of a batch; None without masks.
    """
    if mask_images is None:
        return {"masked_images": None, "masked_which": None}
    pictures, which = mask_images.unique(return_inverse=True)
    return {"masked_images": pictures, "masked_which": which}


def target_counts(fields: Mapping[str, Tensor | None]) -> dict[str, int]:
    """Return what the loss terms of boxes and masks are divided by.

    Args:
        fields: of a batch.
    """
    counts: dict[str, int] = {}
    for seen, there, all_terms in (
        (fields.get("box_seen"), (BOX_L1, BOX_GIOU), (BOX_SEEN, BOX_LOOK)),
        (fields.get("mask_seen"), (MASK_BCE, MASK_DICE, MASK_FOCAL, MASK_IOU), (MASK_SEEN, MASK_LOOK)),
    ):
        if seen is not None:
            counts |= dict.fromkeys(there, int(seen.sum())) | dict.fromkeys(all_terms, len(seen))
    return counts
