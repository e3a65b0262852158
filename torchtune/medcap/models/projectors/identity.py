"""No projector: the tower's patch tokens are the image tokens."""

from __future__ import annotations

from torch import Tensor, nn

from medcap.errors import UserError
from medcap.models.projectors.base import Projector
from medcap.models.towers.base import TowerShape


def identity(tower_shape: TowerShape, llm_dim: int) -> PatchIdentity:
    """Pass the tower's tokens on, as LLaVA's ``mm_projector_type: identity`` does.

    Args:
        tower_shape: shape of the tower's output.
        llm_dim: width of the language model's embeddings.

    Returns:
        The projector, which has no parameters.

    Raises:
        UserError: if the widths differ.
    """
    if tower_shape.patch_dim != llm_dim:
        raise UserError(
            f"projector=medcap.models.identity: the tower's tokens have width {tower_shape.patch_dim} and the language"
            f" model's {llm_dim}: use medcap.models.linear or medcap.models.mlp"
        )
    return PatchIdentity(tower_shape)


class PatchIdentity(nn.Identity, Projector):
    """No state.

    Args:
        tower_shape: shape of the tower's output.
    """

    takes = "patches"

    def __init__(self, tower_shape: TowerShape) -> None:
        super().__init__()
        self.num_image_tokens = tower_shape.num_patches

    def forward(self, patches: Tensor) -> Tensor:
        """``[N, T, D]`` -> ``[N, K, llm_dim]``, K being T and D llm_dim."""
        return patches
