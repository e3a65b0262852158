"""The first LLaVA's projector, and LLaVA-Med's: one linear map for every patch token."""

from __future__ import annotations

from torch import Tensor, nn

from medcap.models.projectors.base import Projector
from medcap.models.towers.base import TowerShape


def linear(tower_shape: TowerShape, llm_dim: int) -> PatchLinear:
    """Linear for each patch token (LLaVA, https://arxiv.org/abs/2304.08485, section 4.1).

    Args:
        tower_shape: shape of the tower's output.
        llm_dim: width of the language model's embeddings.

    Returns:
        The projector, with random weights.
    """
    return PatchLinear(tower_shape, llm_dim)


class PatchLinear(nn.Linear, Projector):
    """State keys ``weight bias``.

    Args:
        tower_shape: shape of the tower's output.
        llm_dim: width of the language model's embeddings.
    """

    takes = "patches"

    def __init__(self, tower_shape: TowerShape, llm_dim: int) -> None:
        super().__init__(tower_shape.patch_dim, llm_dim)
        self.num_image_tokens = tower_shape.num_patches

    def forward(self, patches: Tensor) -> Tensor:
        """``[N, T, D]`` -> ``[N, K, llm_dim]``, K being T."""
        return super().forward(patches)
