"""The default projector: one small MLP for every patch token, with fewer tokens by average pooling on request."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from medcap.errors import UserError
from medcap.models.projectors.base import Projector, positive
from medcap.models.towers.base import TowerShape


def mlp(
    tower_shape: TowerShape,
    llm_dim: int,
    num_image_tokens: int | None = None,
    hidden_dim: int | None = None,
    depth: int = 2,
) -> PatchMLP:
    """Linear, GELU, Linear for each patch token (LLaVA 1.5, https://arxiv.org/abs/2310.03744).

    With another depth it is LLaVA's ``mlp<depth>x_gelu``: a linear map, then GELU and a linear map again and again.

    Args:
        tower_shape: shape of the tower's output.
        llm_dim: width of the language model's embeddings.
        num_image_tokens: K, a perfect square; the token grid is average-pooled to it. None keeps every token.
        hidden_dim: width between the layers; None means ``llm_dim``.
        depth: number of linear maps.

    Returns:
        The projector, with random weights.

    Raises:
        UserError: if the token grid cannot be pooled to ``num_image_tokens``, or a number is impossible.
    """
    grid = pooled = None
    if num_image_tokens is not None and positive("num_image_tokens", num_image_tokens) != tower_shape.num_patches:
        grid, pooled = math.isqrt(tower_shape.num_patches), math.isqrt(num_image_tokens)
        if grid * grid != tower_shape.num_patches:
            raise UserError(
                f"projector.num_image_tokens={num_image_tokens}: the tower's {tower_shape.num_patches} tokens form no "
                "square grid, so they cannot be pooled; leave num_image_tokens out"
            )
        if pooled * pooled != num_image_tokens or pooled > grid:
            below = min(pooled, grid)
            raise UserError(
                f"projector.num_image_tokens={num_image_tokens} must be a perfect square of at most "
                f"{tower_shape.num_patches} (the tower's {grid} x {grid} tokens); the next below is {below * below}"
            )
    if positive("depth", depth) == 1 and hidden_dim is not None:
        raise UserError(
            f"projector.hidden_dim={hidden_dim}: with depth=1 there is no hidden layer; leave one of them out"
        )
    hidden_dim = llm_dim if hidden_dim is None else positive("hidden_dim", hidden_dim)
    return PatchMLP(tower_shape, llm_dim, [hidden_dim] * (depth - 1), grid, pooled)


class PatchMLP(nn.Sequential, Projector):  # pyright: ignore[reportIncompatibleVariableOverride] - torch's own attribute
    """State keys ``0.weight 0.bias 2.weight 2.bias``, and so on for more layers.

    Args:
        tower_shape: shape of the tower's output.
        llm_dim: width of the language model's embeddings.
        hidden_dims: widths between the layers.
        grid: edge of the tower's token grid if it is pooled, otherwise None.
        pooled: edge of the pooled grid, otherwise None.
    """

    takes = "patches"

    def __init__(
        self, tower_shape: TowerShape, llm_dim: int, hidden_dims: Sequence[int], grid: int | None, pooled: int | None
    ) -> None:
        widths = [tower_shape.patch_dim, *hidden_dims, llm_dim]
        layers = [part for sizes in pairwise(widths) for part in (nn.GELU(), nn.Linear(*sizes))]
        super().__init__(*layers[1:])
        self.grid, self.pooled = grid, pooled
        self.num_image_tokens = tower_shape.num_patches if pooled is None else pooled * pooled

    def forward(self, patches: Tensor) -> Tensor:
        """``[N, T, D]`` -> ``[N, K, llm_dim]``."""
        if self.pooled is not None:
            patches = pool_grid(patches.unflatten(1, (self.grid, self.grid)), self.pooled).flatten(1, 2)  # [N, K, D]
        return super().forward(patches)


def pool_grid(values: Tensor, edge: int) -> Tensor:
    """Average-pool ``[N, g, g, D]`` to ``[N, edge, edge, D]``, as torch's ``adaptive_avg_pool2d`` does."""
    return _pool_axis(_pool_axis(values, 1, edge), 2, edge)


def _pool_axis(values: Tensor, axis: int, size: int) -> Tensor:
    """Adaptive average pooling along one axis; unlike torch's own, its backward pass on a GPU is deterministic."""
    length = values.shape[axis]
    if length % size == 0:
        return values.unflatten(axis, (size, length // size)).mean(axis + 1)
    edges = [(cell * length // size, -(-(cell + 1) * length // size)) for cell in range(size)]
    return torch.stack([values.narrow(axis, start, end - start).mean(axis) for start, end in edges], axis)
