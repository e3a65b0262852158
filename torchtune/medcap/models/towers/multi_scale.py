"""S2: an image at several scales through one tower, its features side by side (https://arxiv.org/abs/2403.13043)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from medcap.errors import UserError
from medcap.models.preprocess import Preprocess
from medcap.models.towers.base import Tower
from medcap.models.towers.source import TowerSource

KEY = "scales"
_INNER = "tower."


class MultiScaleTower(Tower):
    """A tower that sees an image at several sizes: T tokens, whose width is the tower's times the number of scales.

    At scale s the image is s times the tower's size. It is cut into s x s squares, each is encoded, their token grids
    are laid together, and this larger grid is averaged over s x s tokens to the tower's own. The features of all scales
    stand side by side in each token. Source: ``forward`` in s2wrapper/core.py of
    https://github.com/bfshi/scaling_on_scales. The image comes at the largest scale; the others are made of it here.

    Args:
        spec: that of the tower, with ``scales``.
        preprocess: that of the tower, for images of the largest scale.
        tower: the tower; its weights are ``tower.*``.
    """

    has_pooled = False

    def __init__(self, spec: dict[str, Any], preprocess: Preprocess, tower: Tower) -> None:
        super().__init__(spec, preprocess)
        self.scales: list[int] = spec[KEY]
        self.tower = tower

    @classmethod
    def around(
        cls, spec: dict[str, Any], preprocess: Preprocess, build: Callable[[dict[str, Any], Preprocess], Tower]
    ) -> MultiScaleTower:
        """Build the tower and what is around it.

        Args:
            spec: that of the tower, with ``scales``.
            preprocess: that of the tower, for images of the largest scale.
            build: builds a tower.
        """
        inner = {name: value for name, value in spec.items() if name != KEY}
        size = preprocess.image_size // max(spec[KEY])
        return cls(spec, preprocess, build(inner, replace(preprocess, image_size=size)))

    def on_meta(self) -> Tower:
        """Return the same architecture without memory."""
        return MultiScaleTower(self.spec, self.preprocess, self.tower.on_meta())

    def encode_patches(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, T, D * number of scales]``."""
        return torch.cat([self._at_scale(images, scale) for scale in self.scales], 2)

    def encode_pooled(self, images: Tensor) -> Tensor:
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError("vision.scales: a tower with several scales has no pooled vector; take patches")

    def restore_buffers(self) -> None:
        """Those of the tower."""
        self.tower.restore_buffers()

    def _at_scale(self, images: Tensor, scale: int) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, T, D]``."""
        edge = self.tower.preprocess.image_size
        pixels = resized(images, scale * edge)
        squares = pixels.unflatten(3, (scale, edge)).unflatten(2, (scale, edge))  # [N, 3, s, e, s, e]
        squares = squares.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  # [N s s, 3, e, e]
        tokens = self.tower.encode_patches(squares)  # [N s s, T, D]
        grid = math.isqrt(tokens.shape[1])
        if grid * grid != tokens.shape[1]:
            raise UserError(f"vision.scales: the tower's {tokens.shape[1]} tokens form no square grid; leave it out")
        if scale == 1:
            return tokens
        # The means of s x s tokens of the large grid, whose edge is s times that of the tower.
        large = tokens.view(len(images), scale, scale, grid, grid, -1).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        return large.unflatten(2, (grid, scale)).unflatten(1, (grid, scale)).mean((2, 4)).flatten(1, 2)


def resized(images: Tensor, edge: int) -> Tensor:
    """Make square images smaller, bicubic with antialiasing as their preparation: ``[N, 3, H, W]`` -> edge x edge."""
    if images.shape[-1] == edge:
        return images
    return functional.interpolate(images, size=(edge, edge), mode="bicubic", antialias=True)


def multi_scale_source(source: TowerSource, scales: Any) -> TowerSource:
    """Describe a tower that sees several scales.

    Args:
        source: the tower.
        scales: value of ``vision.scales``: whole numbers that grow, such as [1, 2]; None for the tower as it is.

    Raises:
        UserError: for anything else.
    """
    if scales is None:
        return source
    whole = isinstance(scales, Sequence) and not isinstance(scales, str)
    if not whole or not scales or any(type(scale) is not int or scale < 1 for scale in scales):
        raise UserError(f"vision.scales={scales!r} must be a list of positive whole numbers, such as [1, 2]")
    if any(scale >= following for scale, following in pairwise(scales)):
        raise UserError(f"vision.scales={list(scales)} must grow, such as [1, 2, 3]")
    preprocess = replace(source.preprocess, image_size=source.preprocess.image_size * scales[-1])
    weights = None if source.weights is None else source.weights.renamed(lambda name: f"{_INNER}{name}")
    return replace(source, spec={**source.spec, KEY: list(scales)}, preprocess=preprocess, weights=weights)
