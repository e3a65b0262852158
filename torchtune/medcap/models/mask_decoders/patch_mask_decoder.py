"""A light mask decoder on the tower's own patch tokens, which needs no further weights."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcap.data.row_masks import MASK_WORD
from medcap.models.mask_decoders.base import MaskDecoder, Outlined, check_gradient_scale
from medcap.models.model_plan import PlannedModel
from medcap.models.object_query import ObjectHead, check_plan, check_sizes

_CHANNELS = (32, 48, 64)  # at a half, a quarter and an eighth of the picture's side
_GROUPS = 8
_FIRST_LOGIT = -3.0  # most pixels lie outside


def patch_mask_decoder(
    plan: PlannedModel, width: int = 128, layers: int = 1, heads: int = 4, gradient_scale: float = 1.0
) -> PatchMaskDecoder:
    """Build the light mask decoder of a model.

    Args:
        plan: plan of the model.
        width: width of the query; a multiple of 4 and of ``heads``.
        layers: times that the query looks at the patches before the mask is made.
        heads: attention heads.
        gradient_scale: what the gradient is multiplied by that flows from masks through the language model into
            its input.

    Returns:
        The decoder, with random weights.

    Raises:
        UserError: if an option is impossible, the words lack ``<SEG>``, or the projector takes no patch tokens.
    """
    check_sizes(MaskDecoder.name, width, layers, heads)
    scale = check_gradient_scale(gradient_scale)
    check_plan(MaskDecoder.name, "a mask", MASK_WORD, plan)
    vision = plan.vision
    dims = vision.llm_dim, vision.shape.patch_dim, vision.shape.num_patches
    return PatchMaskDecoder(*dims, vision.preprocess.image_size, width, layers, heads, scale)


class PatchMaskDecoder(ObjectHead, MaskDecoder):
    """Features of every pixel, made of the patch tokens and of the picture itself, times the query.

    Patch tokens say what is where, in cells of many pixels; three convolutions over the picture add its edges. A pixel
    is inside where the product of its features and the query, and how well its patch answers the query, are high.

    Args:
        dim: width d of a hidden state.
        patch_dim: width D of a patch token.
        num_patches: patch tokens of a picture, T; they are a square grid, row after row.
        side: side of a picture in pixels.
        width: width of the query.
        layers: times that the query looks at the patches.
        heads: attention heads.
        gradient_scale: as for ``MaskDecoder``.
    """

    reads_pictures = True

    def __init__(
        self,
        dim: int,
        patch_dim: int,
        num_patches: int,
        side: int,
        width: int,
        layers: int,
        heads: int,
        gradient_scale: float,
    ) -> None:
        super().__init__(dim, patch_dim, num_patches, width, layers, heads)
        self.side, self.gradient_scale = side, gradient_scale
        half, quarter, eighth = _CHANNELS
        self.edges = nn.ModuleList(
            _stage(inward, outward, stride=2) for inward, outward in ((3, half), (half, quarter), (quarter, eighth))
        )
        self.patches = nn.Linear(patch_dim, eighth)
        self.grow = nn.ModuleList(
            _stage(inward, outward) for inward, outward in ((eighth, quarter), (quarter, half), (half, half))
        )
        self.skips = nn.ModuleList(nn.Conv2d(channels, channels, 1) for channels in (eighth, quarter, half))
        self.finest = nn.ConvTranspose2d(half, half, 2, stride=2)
        self.to_pixels = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, half))
        self.coarse = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.full((), _FIRST_LOGIT))
        self.estimate = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))

    def config(self) -> dict[str, Any]:
        """Return the function's name and its options."""
        return super().config() | {"gradient_scale": self.gradient_scale}

    def forward(self, hidden: Tensor, patches: Tensor | None, pictures: Tensor, which: Tensor) -> Outlined:
        """See :meth:`MaskDecoder.forward`."""
        assert patches is not None, "it reads them"
        sought = self.seek(hidden, patches[which])
        both = torch.cat([sought.features, sought.query], dim=-1)  # [M, 2w]
        features = self._features(patches.float(), pictures)  # [P, c, h, h]
        query = self.to_pixels(both) / math.sqrt(_CHANNELS[0])  # [M, c]
        fine = self._answer(query, features, which)  # [M, side, side]
        grid = self.look.grid
        coarse = _resized(sought.scores.view(-1, 1, grid, grid), self.side)[:, 0]  # [M, side, side]
        logits = fine + self.coarse * coarse + self.bias
        return Outlined(logits, self.estimate(both)[:, 0].sigmoid(), sought.seen, sought.scores)

    def _features(self, patches: Tensor, pictures: Tensor) -> Tensor:
        """``[P, T, D]`` and ``[P, 3, side, side]`` -> ``[P, c, h, h]`` at half the side."""
        edges = [pictures.float() / 127.5 - 1]  # [P, 3, side, side]
        for stage in self.edges:
            edges.append(stage(edges[-1]))  # [P, c, ceil(side / 2)], then / 4, then / 8
        grid = self.look.grid
        features = self.patches(patches).mT.unflatten(2, (grid, grid))  # [P, c, g, g]
        for stage, skip, edge in zip(self.grow, self.skips, edges[:0:-1], strict=True):
            features = stage(_resized(features, edge.shape[-1]) + skip(edge))
        return features

    def _answer(self, query: Tensor, features: Tensor, which: Tensor) -> Tensor:
        """Return the product of each query and the features of every pixel of its picture, ``[M, side, side]``.

        The features of four pixels are four linear maps of one cell of ``features``. Taking these maps to the query
        instead gives the same product, and the features of single pixels, the largest tensor, are never made.
        """
        count, half = len(query), features.shape[-1]
        maps = self.finest.weight.flatten(2)  # [c, c', 4]
        queries = torch.einsum("mo,ios->msi", query, maps)  # [M, 4, c]
        cells = features.flatten(2).index_select(0, which)  # [M, c, h * h]
        products = torch.bmm(queries, cells).view(count, 4, half, half)
        pixels = functional.pixel_shuffle(products, 2)  # [M, 1, 2 h, 2 h]
        assert self.finest.bias is not None, "a transposed convolution has one by default"
        bias = query @ self.finest.bias  # [M]
        return _resized(pixels, self.side)[:, 0] + bias[:, None, None]


def _stage(inward: int, outward: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inward, outward, 3, stride=stride, padding=1), nn.GroupNorm(_GROUPS, outward), nn.GELU()
    )


def _resized(features: Tensor, side: int) -> Tensor:
    """``[P, c, h, h]`` -> ``[P, c, side, side]``."""
    if features.shape[-1] == side:
        return features
    return functional.interpolate(features, size=(side, side), mode="bilinear", align_corners=False)
