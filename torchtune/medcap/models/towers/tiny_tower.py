"""A small vision transformer on a convolution stem: starts random, learns in minutes on a CPU."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcap.errors import UserError
from medcap.models.preprocess import HALF, Preprocess
from medcap.models.towers.base import Tower

_DEFAULTS = {"image_size": 64, "stride": 8, "width": 96, "depth": 4, "heads": 3, "pooled_dim": 96}


def tiny_spec(options: Mapping[str, Any]) -> tuple[dict[str, Any], Preprocess]:
    """Specification and preprocessing of a tiny tower.

    Args:
        options: any of image_size (pixels, 64), stride (pixels between tokens, a power of two, 8), width (96),
            depth (4), heads (3), pooled_dim (96).

    Raises:
        UserError: for an unknown or impossible option.
    """
    for name, value in options.items():
        if name not in _DEFAULTS:
            raise UserError(f"unknown key vision.{name}: the tiny tower takes {', '.join(_DEFAULTS)}")
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise UserError(f"vision.{name}={value!r} must be a positive whole number")
    spec = {"kind": "tiny", **_DEFAULTS, **options}
    stride = spec["stride"]
    if stride < 2 or stride & (stride - 1):
        raise UserError(f"vision.stride={stride} must be a power of two: 2, 4, 8, 16, ...")
    if spec["image_size"] % stride:
        raise UserError(f"vision.image_size={spec['image_size']} must be a multiple of {stride}")
    if spec["width"] % 32 or spec["width"] % spec["heads"]:
        raise UserError(f"vision.width={spec['width']} must be a multiple of 32 and of vision.heads={spec['heads']}")
    return spec, Preprocess(spec["image_size"], HALF, HALF, resize_mode="squash")


class TinyTower(Tower):
    """Stride-2 convolutions, then a pre-norm transformer; about 0.5 million parameters by default.

    The group and layer norms see one image at a time, so an image's tokens do not depend on its batch.

    Args:
        spec: image_size, stride, width, depth, heads, pooled_dim.
        preprocess: squash to ``image_size``.
    """

    def __init__(self, spec: dict[str, Any], preprocess: Preprocess) -> None:
        super().__init__(spec, preprocess)
        width, grid = spec["width"], spec["image_size"] // spec["stride"]
        stages = spec["stride"].bit_length() - 1
        # Evenly growing, in the groups of eight that the norms need.
        channels = [3, *(max(8, width * stage // stages // 8 * 8) for stage in range(1, stages)), width]
        self.stem = nn.Sequential()
        for inward, outward in itertools.pairwise(channels):
            self.stem.append(nn.Conv2d(inward, outward, 3, stride=2, padding=1, bias=False))
            self.stem.append(nn.GroupNorm(8, outward))
            self.stem.append(nn.GELU())
        self.positions = nn.Parameter(_sine_cosine_positions(grid, width))  # [T, D]
        self.blocks = nn.ModuleList(_Block(width, spec["heads"]) for _ in range(spec["depth"]))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, spec["pooled_dim"])

    def encode_patches(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, T, D]``."""
        features = self.stem(self._cast(images))  # [N, D, g, g]
        tokens = features.flatten(2).transpose(1, 2) + self.positions  # [N, T, D]
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def encode_pooled(self, images: Tensor) -> Tensor:
        """``[N, 3, H, W]`` -> ``[N, D_pooled]``."""
        return self.head(self.encode_patches(images).mean(dim=1))


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        count, length, width = tokens.shape
        qkv = self.qkv(self.attention_norm(tokens))  # [N, T, 3 D]
        qkv = qkv.view(count, length, 3, self.heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)  # [N, heads, T, D / heads]
        mixed = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.out(mixed.transpose(1, 2).reshape(count, length, width))
        return tokens + self.down(functional.gelu(self.up(self.mlp_norm(tokens))))


def _sine_cosine_positions(grid: int, width: int) -> Tensor:
    """Two-dimensional positions (MoCo v3, https://arxiv.org/abs/2104.02057): ``[grid * grid, width]``."""
    frequencies = 10_000.0 ** (-torch.arange(width // 4) / (width // 4))
    angles = torch.arange(grid)[:, None] * frequencies  # [grid, width / 4]
    waves = torch.cat([angles.sin(), angles.cos()], dim=1)  # [grid, width / 2]
    rows = waves[:, None].expand(grid, grid, -1)
    columns = waves[None].expand(grid, grid, -1)
    return torch.cat([rows, columns], dim=2).flatten(0, 1)
