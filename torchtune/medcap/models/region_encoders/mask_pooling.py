"""MedPLIB's region encoder: the mean of the projected patch tokens under the region, one token."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from medcap.data.regions.patch_weights import RegionForm
from medcap.models.model_plan import PlannedModel
from medcap.models.region_encoders.base import RegionEncoder, check_number, check_plan


def mask_pooling(plan: PlannedModel, points: int | None = None, seed: int = 0, published: bool = False) -> MaskPooling:
    """Build MedPLIB's region encoder (https://arxiv.org/abs/2412.09278).

    A linear map of the tower's patch tokens to the language model's width, and the mean over the region. Each patch
    weighs as much as the region covers of it, so the mean is exact for images of any shape.

    Args:
        plan: plan of the model.
        points: most patches of a region that are read, chosen at random but for the same region always the same; null
            for all. MedPLIB reads at most 512.
        seed: seed of the choice.
        published: read the region as MedPLIB's code does, with the nearest cells of the grid and without the half
            pixel; see ``medcap.data.regions.patch_weights``.

    Returns:
        The encoder, with random weights.

    Raises:
        UserError: if an option is impossible, the words lack ``<region>`` or ``</region>``, or the projector takes no
            patch tokens.
    """
    grid = check_plan(plan)
    if points is not None:
        check_number("points", points)
    form = RegionForm(1, grid, points, check_number("seed", seed, 0), bool(published))
    return MaskPooling(plan.vision.shape.patch_dim, plan.vision.llm_dim, form)


class MaskPooling(RegionEncoder):
    """The module of :func:`mask_pooling`.

    Args:
        patch_dim: width D of a patch token.
        dim: width d of the language model.
        form: how regions are read.
    """

    def __init__(self, patch_dim: int, dim: int, form: RegionForm) -> None:
        super().__init__()
        self.form = form
        self.project = nn.Linear(patch_dim, dim)

    def config(self) -> dict[str, Any]:
        """Return the function's name and its options."""
        form = self.form
        options = {"points": form.points, "seed": form.seed, "published": form.published}
        return {"_component_": "medcap.models.mask_pooling", **options}

    def forward(self, patches: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`RegionEncoder.forward`."""
        # The mean of what is projected is the projected mean, which costs one product for a region.
        mean = (weights[:, None] @ patches.float())[:, 0]  # [Q, D]
        # As published, a region without a cell is the zero vector.
        there = (weights.sum(dim=1, keepdim=True) > 0).to(mean.dtype)  # [Q, 1]
        return (self.project(mean) * there)[:, None]
