"""The boxes, masks and regions of a sample in the picture that the tower is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from medcap.data.answer_targets import BoxTarget, MaskTarget
from medcap.data.boxes.box import Size
from medcap.data.images.reference import ImageRef
from medcap.data.packing import Sample
from medcap.data.question_regions import QuestionRegion
from medcap.data.regions.patch_weights import RegionForm, patch_weights
from medcap.data.regions.region import Region
from medcap.data.regions.shown import shown_mask
from medcap.errors import UserError
from medcap.models.preprocess import Preprocess

_ALL = "dataset.view.fit=pad shows whole images"


def with_shown_boxes(sample: Sample, transform: Any, sizes: Mapping[ImageRef, Size]) -> Sample:
    """Return a sample with its boxes in shares of the picture that the tower is shown.

    Args:
        sample: boxes in shares of the original images.
        transform: the tower's preprocessing.
        sizes: width and height of each image in pixels.

    Raises:
        UserError: if nothing is left of a box.
    """

    def shown(box: BoxTarget) -> BoxTarget:
        if box.edges is None:
            return box
        image = sample.images[box.image]
        edges = transform.preprocess.frame(sizes[image], image.view.fit).to_shown(box.edges)
        if edges is None:
            shares = ", ".join(f"{edge:.3f}" for edge in box.edges)
            raise UserError(
                f"{sample.name}: the tower is shown nothing of the box [{shares}] (shares of {image}): it is cut off;"
                f" {_ALL}"
            )
        return replace(box, edges=edges)

    return replace(sample, boxes=tuple(map(shown, sample.boxes)))


def with_shown_masks(
    sample: Sample,
    preprocess: Preprocess,
    by_view: bool,
    sizes: Mapping[ImageRef, Size],
    draw: Callable[[Region, Size], np.ndarray],
) -> Sample:
    """Return a sample with its masks drawn in the picture that the mask decoder looks at.

    Args:
        sample: its masks are regions of the original images.
        preprocess: how an image becomes that picture.
        by_view: whether the view of an image may say otherwise, as it does for the tower.
        sizes: width and height of each image in pixels.
        draw: a region and the size of its image -> ``[H, W]`` bool.

    Raises:
        UserError: if a region cannot be drawn, or nothing is left of a mask.
    """

    def shown(mask: MaskTarget) -> MaskTarget:
        image = sample.images[mask.image]
        frame = preprocess.frame(sizes[image], image.view.fit if by_view else None)
        width, height = sizes[image]
        drawn = np.zeros((height, width), bool) if mask.region is None else draw(mask.region, sizes[image])
        laid = shown_mask(drawn, frame, preprocess.image_size)
        if mask.region is not None and not laid[0].any():
            raise UserError(
                f"{sample.name}: the {'tower' if by_view else 'mask decoder'} is shown nothing of a mask on {image}: it"
                f" is cut off, or smaller than a pixel of the picture that it sees{f'; {_ALL}' if by_view else ''}"
            )
        return replace(mask, shown=laid)

    return replace(sample, masks=tuple(map(shown, sample.masks)))


def with_shown_regions(
    sample: Sample,
    transform: Any,
    sizes: Mapping[ImageRef, Size],
    draw: Callable[[Region, Size], np.ndarray],
    form: RegionForm,
) -> Sample:
    """Return a sample with its questions' regions as weights of the patches that the tower makes.

    Args:
        sample: its regions lie on the original images.
        transform: the tower's preprocessing.
        sizes: width and height of each image in pixels.
        draw: a region and the size of its image -> ``[H, W]`` bool.
        form: how the model reads a region.

    Raises:
        UserError: if a region cannot be drawn, or the tower is shown nothing of it.
    """
    preprocess = transform.preprocess

    def shown(one: QuestionRegion) -> QuestionRegion:
        image = sample.images[one.image]
        frame = preprocess.frame(sizes[image], image.view.fit)
        drawn = draw(one.region, sizes[image])
        try:
            return replace(one, weights=patch_weights(drawn, frame, preprocess.image_size, form))
        except UserError as error:
            raise UserError(f"{sample.name}: {error} on {image}; {_ALL}") from None

    return replace(sample, regions=tuple(map(shown, sample.regions)))
