"""How much of each patch of a picture a region covers: what a region encoder reads of the region."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from medcap.data.boxes.frame import Frame
from medcap.data.regions.draw import draw_region
from medcap.data.regions.region import Region
from medcap.data.regions.shown import covered, shown_mask
from medcap.errors import UserError

if TYPE_CHECKING:
    from medcap.data.images.reader import ImageReader

_HALF = 128  # of 255: a pixel of the picture counts as inside


@dataclass(frozen=True)
class RegionForm:
    """How a model reads a region.

    Attributes:
        num_tokens: placeholders of a region, K.
        grid: edge of the tower's grid of patches.
        points: most patches of a region that are read, chosen at random; None for all.
        seed: of the choice. It also depends on the region alone, so the same region always has the same patches.
        published: read the region as MedPLIB's code does; see :func:`patch_weights`.
    """

    num_tokens: int
    grid: int
    points: int | None = None
    seed: int = 0
    published: bool = False


def region_weights(
    region: Region, frame: Frame, side: int, form: RegionForm, reader: ImageReader | None = None
) -> np.ndarray:
    """Draw a region and return its :func:`patch_weights`.

    Args:
        region: in pixels of the original image.
        frame: where the parts of the image lie in the square that the tower is shown.
        side: side of that square in pixels.
        form: how the model reads a region.
        reader: opens the files of masks; None where there are none.

    Raises:
        UserError: as :func:`patch_weights` and :func:`draw_region`.
    """
    return patch_weights(draw_region(region, frame.size, reader), frame, side, form)


def patch_weights(mask: np.ndarray, frame: Frame, side: int, form: RegionForm) -> np.ndarray:
    """Return the weights of the patches in the mean over a region.

    A patch weighs as much as the region covers of it. As published by MedPLIB (``extract_region_feature`` of its
    ``medplib_arch.py``), the mask is instead reduced to the upper left pixel of each patch, and each cell that is
    inside is a point at column / W and row / H, without the half pixel to the cell's centre, where the features are
    interpolated with ``align_corners``: every point is moved towards the upper left.

    Args:
        mask: ``[H, W]`` bool, at the original image's size.
        frame: where the parts of the image lie in the square that the tower is shown.
        side: side of that square in pixels.
        form: how the model reads a region.

    Returns:
        ``[grid * grid]`` float32 with sum 1, row after row. As published, a region without a cell has zeros.

    Raises:
        UserError: if the tower is shown nothing of the region.
    """
    share = covered(mask, frame, form.grid)
    if not share.any():
        raise UserError("the tower is shown nothing of a region: it is cut off")
    if form.published:
        inside = shown_mask(mask, frame, side)[0] >= _HALF
        corners = np.arange(form.grid) * side // form.grid  # of the patches, in pixels
        share = inside[np.ix_(corners, corners)].astype(np.float64)
    cells = np.flatnonzero(share)
    if form.points is not None and len(cells) > form.points:
        digest = hashlib.blake2b(repr((form.seed, share.shape)).encode() + share.tobytes(), digest_size=8).digest()
        stream = np.random.default_rng(int.from_bytes(digest, "little"))
        cells = np.sort(stream.choice(cells, form.points, replace=False))
    if form.published:
        weights = _interpolated(cells, form.grid)
    else:
        weights = np.zeros(share.size)
        weights[cells] = share.flat[cells]
    total = weights.sum()
    return (weights / total if total else weights).astype(np.float32)


def _interpolated(cells: np.ndarray, grid: int) -> np.ndarray:
    """Return how much each cell weighs in the bilinear values at the published points, ``[grid * grid]``."""
    weights = np.zeros(grid * grid)
    along = []
    for index in (cells // grid, cells % grid):
        position = index / grid * (grid - 1)  # align_corners: 0 is the centre of the first cell, 1 that of the last
        before = position.astype(np.int64)
        along.append(((before, 1 - (position - before)), (np.minimum(before + 1, grid - 1), position - before)))
    for row, down in along[0]:
        for column, across in along[1]:
            np.add.at(weights, row * grid + column, down * across)
    return weights
