"""medcap 2024's first projector: all image tokens from one pooled vector."""

from __future__ import annotations

from torch import Tensor, nn

from medcap.models.projectors.base import Projector, pooled_dim, positive
from medcap.models.towers.base import TowerShape


def pooled_mlp(
    tower_shape: TowerShape, llm_dim: int, num_image_tokens: int = 50, hidden_dim: int | None = None
) -> PooledMLP:
    """Linear, exact GELU, Linear to all K image tokens together, as in ``meta_model_*.pt`` files.

    Args:
        tower_shape: shape of the tower's output.
        llm_dim: width of the language model's embeddings, d.
        num_image_tokens: K.
        hidden_dim: width between the two layers; None means ``llm_dim``.

    Returns:
        The projector, with random weights.

    Raises:
        UserError: if a number is impossible, or the tower has no pooled vector.
    """
    hidden_dim = llm_dim if hidden_dim is None else positive("hidden_dim", hidden_dim)
    return PooledMLP(pooled_dim(tower_shape), hidden_dim, positive("num_image_tokens", num_image_tokens), llm_dim)


class PooledMLP(nn.Sequential, Projector):  # pyright: ignore[reportIncompatibleVariableOverride] - torch's own attribute
    """State keys ``0.weight 0.bias 2.weight 2.bias``; token k is outputs ``k * llm_dim`` to ``(k + 1) * llm_dim``.

    Args:
        pooled_dim: width of the pooled vector.
        hidden_dim: width between the two layers.
        num_image_tokens: K.
        llm_dim: width of the language model's embeddings.
    """

    takes = "pooled"

    def __init__(self, pooled_dim: int, hidden_dim: int, num_image_tokens: int, llm_dim: int) -> None:
        super().__init__(
            nn.Linear(pooled_dim, hidden_dim), nn.GELU(), nn.Linear(hidden_dim, num_image_tokens * llm_dim)
        )
        self.num_image_tokens = num_image_tokens

    def forward(self, pooled: Tensor) -> Tensor:
        """``[N, D_pooled]`` -> ``[N, K, llm_dim]``."""
        return super().forward(pooled).unflatten(1, (self.num_image_tokens, -1))
