"""Qwen-VL's projector: a fixed number of learned queries look at the patch tokens through one cross-attention layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcap.errors import UserError
from medcap.models.projectors.base import Projector, positive
from medcap.models.towers.base import TowerShape

_EPSILON = 1e-6  # of the layer norms
_HEAD_WIDTH = 128


def resampler(
    tower_shape: TowerShape, llm_dim: int, num_image_tokens: int = 256, num_heads: int | None = None
) -> Resampler:
    """Compress each image's tokens to a fixed number (Qwen-VL, https://arxiv.org/abs/2308.12966, section 2.1).

    The order: a linear map of the patch tokens to ``llm_dim`` (left out where the widths are equal) and a layer norm;
    one attention layer, whose queries are learned and whose keys are the patch tokens, each plus fixed
    two-dimensional sine and cosine positions; a layer norm; a linear map. Source: ``Resampler`` and the last lines of
    ``VisionTransformer`` in visual.py of https://huggingface.co/Qwen/Qwen-VL-Chat. BiRD starts from that model.

    Args:
        tower_shape: shape of the tower's output, a square grid of any size.
        llm_dim: width of the language model's embeddings, a multiple of 4.
        num_image_tokens: K, the number of queries, a perfect square.
        num_heads: heads of the attention; None means as many of about 128 numbers as ``llm_dim`` can be divided into.

    Returns:
        The projector, with random weights.

    Raises:
        UserError: if a number is impossible, or the tower's tokens form no square grid.
    """
    queries = math.isqrt(positive("num_image_tokens", num_image_tokens))
    if queries * queries != num_image_tokens:
        raise UserError(
            f"projector.num_image_tokens={num_image_tokens} must be a perfect square (the queries form a grid); the"
            f" next below is {queries * queries}"
        )
    grid = math.isqrt(tower_shape.num_patches)
    if grid * grid != tower_shape.num_patches:
        raise UserError(
            f"projector: the tower's {tower_shape.num_patches} tokens form no square grid: use mlp or linear"
        )
    if llm_dim % 4:
        raise UserError(
            f"projector: the resampler's positions need a language model of a width that 4 divides, not {llm_dim}"
        )
    if num_heads is None:
        num_heads = next(count for count in range(max(1, llm_dim // _HEAD_WIDTH), 0, -1) if llm_dim % count == 0)
    elif llm_dim % positive("num_heads", num_heads):
        raise UserError(f"projector.num_heads={num_heads} must divide the language model's width {llm_dim}")
    return Resampler(tower_shape.patch_dim, llm_dim, grid, queries, num_heads)


class Resampler(Projector):
    """The module of :func:`resampler`.

    State keys: ``queries``, ``inner.weight`` (where the widths differ), ``key_norm.*``, ``query_norm.*``,
    ``attention.*``, ``norm.*`` and ``outer.weight``. The positions are computed and not saved.

    Args:
        patch_dim: width of a patch token, D.
        llm_dim: width of the language model's embeddings, d.
        grid: edge of the tower's token grid.
        queries: edge of the grid of queries.
        num_heads: heads of the attention.
    """

    takes = "patches"

    def __init__(self, patch_dim: int, llm_dim: int, grid: int, queries: int, num_heads: int) -> None:
        super().__init__()
        self.num_image_tokens = queries * queries
        self.queries = nn.Parameter(torch.empty(self.num_image_tokens, llm_dim))
        nn.init.trunc_normal_(self.queries, std=0.02)
        self.inner = nn.Identity() if patch_dim == llm_dim else nn.Linear(patch_dim, llm_dim, bias=False)
        self.query_norm = nn.LayerNorm(llm_dim, eps=_EPSILON)
        self.key_norm = nn.LayerNorm(llm_dim, eps=_EPSILON)
        self.attention = nn.MultiheadAttention(llm_dim, num_heads, batch_first=True)
        self.norm = nn.LayerNorm(llm_dim, eps=_EPSILON)
        self.outer = nn.Linear(llm_dim, llm_dim, bias=False)
        nn.init.normal_(self.outer.weight, std=llm_dim**-0.5)
        positions = grid_positions(llm_dim, queries)
        self.register_buffer("query_positions", positions, persistent=False)
        self.register_buffer("key_positions", resized_positions(positions, grid), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """``[N, T, D]`` -> ``[N, K, llm_dim]``."""
        values = self.key_norm(self.inner(patches))  # [N, T, d]
        queries = (self.query_norm(self.queries) + self.query_positions).expand(len(patches), -1, -1)  # [N, K, d]
        found, _ = self.attention(queries, values + self.key_positions, values, need_weights=False)
        return self.outer(self.norm(found))


def grid_positions(width: int, edge: int) -> Tensor:
    """Return two-dimensional sine and cosine positions (MAE's and Qwen-VL's ``get_2d_sincos_pos_embed``).

    Args:
        width: d, a multiple of 4; a quarter each for sine and cosine of the column, then of the row.
        edge: edge of the grid.

    Returns:
        ``[edge * edge, d]`` fp32, row by row.
    """
    frequencies = 10_000.0 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    angles = torch.arange(edge, dtype=torch.float64)[:, None] * frequencies  # [edge, d / 4]
    waves = torch.cat([angles.sin(), angles.cos()], 1)  # [edge, d / 2]
    columns, rows = waves[None].expand(edge, edge, -1), waves[:, None].expand(edge, edge, -1)
    return torch.cat([columns, rows], 2).flatten(0, 1).float()


def resized_positions(positions: Tensor, edge: int) -> Tensor:
    """Interpolate positions of a square grid to another one, bicubic, as Qwen-VL's ``get_abs_pos`` does.

    Args:
        positions: ``[g * g, d]``.
        edge: edge of the new grid.

    Returns:
        ``[edge * edge, d]``.
    """
    old = math.isqrt(len(positions))
    if old == edge:
        return positions
    grid = positions.view(1, old, old, -1).permute(0, 3, 1, 2)  # [1, d, g, g]
    return functional.interpolate(grid, size=(edge, edge), mode="bicubic").flatten(2)[0].T.contiguous()
