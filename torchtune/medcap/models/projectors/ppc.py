"""ColonGPT's projector: it pools the patch grid to several sizes and joins the tokens of all sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcap.errors import UserError
from medcap.models.projectors.base import Projector, positive
from medcap.models.projectors.mlp import pool_grid
from medcap.models.towers.base import TowerShape


def ppc(tower_shape: TowerShape, llm_dim: int, levels: Sequence[int] = (14, 7, 1)) -> PyramidPooling:
    """Pool each image's tokens to grids of several sizes (``ppc_14_7_1`` of ColonGPT, https://arxiv.org/abs/2410.17241).

    The order: Linear and GELU for each token; average pooling to each level; one 3 x 3 convolution, shared by all
    levels but the last; the tokens of the levels in the given order, each level row by row; Linear. Source:
    colongpt/model/multimodal_projector/builder.py:24-58.

    Args:
        tower_shape: shape of the tower's output, a square grid.
        llm_dim: width of the language model's embeddings.
        levels: edges of the pooled grids, from large to small; an image has as many tokens as the sum of their squares.

    Returns:
        The projector, with random weights.

    Raises:
        UserError: if the tower's grid is not square, or a level does not fit it.
    """
    grid = math.isqrt(tower_shape.num_patches)
    if grid * grid != tower_shape.num_patches:
        raise UserError(
            f"projector: the tower's {tower_shape.num_patches} tokens form no square grid: use mlp or linear"
        )
    if not isinstance(levels, Sequence) or isinstance(levels, str) or not levels:
        raise UserError(f"projector.levels={levels!r} must be a list of grid edges, such as [14, 7, 1]")
    edges = [positive("levels", edge) for edge in levels]
    if edges[0] > grid or any(edge <= following for edge, following in pairwise(edges)):
        raise UserError(
            f"projector.levels={edges} must fall, from at most {grid} (the tower's grid edge): choose other levels"
        )
    return PyramidPooling(tower_shape, llm_dim, edges)


class PyramidPooling(Projector):
    """The module of :func:`ppc`.

    State keys: ``inner.*``, ``convolution.*`` and ``outer.*``, each with a weight and a bias.

    Args:
        tower_shape: shape of the tower's output.
        llm_dim: width of the language model's embeddings.
        levels: edges of the pooled grids.
    """

    takes = "patches"

    def __init__(self, tower_shape: TowerShape, llm_dim: int, levels: Sequence[int]) -> None:
        super().__init__()
        self.inner = nn.Linear(tower_shape.patch_dim, llm_dim)
        self.convolution = nn.Conv2d(llm_dim, llm_dim, kernel_size=3, padding=1)
        self.outer = nn.Linear(llm_dim, llm_dim)
        self.grid, self.levels = math.isqrt(tower_shape.num_patches), list(levels)
        self.num_image_tokens = sum(edge * edge for edge in levels)

    def forward(self, patches: Tensor) -> Tensor:
        """Project patches: ``[N, T, D]`` -> ``[N, K, llm_dim]``."""
        values = functional.gelu(self.inner(patches)).unflatten(1, (self.grid, self.grid))  # [N, g, g, d]
        pooled = [pool_grid(values, edge) for edge in self.levels]  # [N, k, k, d] each
        convolved = [self.convolution(level.movedim(-1, 1)).movedim(1, -1) for level in pooled[:-1]]
        return self.outer(torch.cat([level.flatten(1, 2) for level in (*convolved, pooled[-1])], 1))
