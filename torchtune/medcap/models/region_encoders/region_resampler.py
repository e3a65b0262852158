"""A region encoder of several tokens: learnt queries look at the patch tokens under the region."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from medcap.data.regions.patch_weights import RegionForm
from medcap.errors import UserError
from medcap.models.model_plan import PlannedModel
from medcap.models.object_query import grid_centres, positions
from medcap.models.region_encoders.base import RegionEncoder, check_number, check_plan


def region_resampler(plan: PlannedModel, num_tokens: int = 4, width: int = 128, heads: int = 4) -> RegionResampler:
    """Build a region encoder that keeps detail: a few queries look at the patches that the region touches.

    Args:
        plan: plan of the model.
        num_tokens: tokens of a region, the number of queries.
        width: width of the attention; a multiple of 4 and of ``heads``.
        heads: attention heads.

    Returns:
        The encoder, with random weights.

    Raises:
        UserError: if an option is impossible, the words lack ``<region>`` or ``</region>``, or the projector takes no
            patch tokens.
    """
    grid = check_plan(plan)
    for key, value in {"num_tokens": num_tokens, "width": width, "heads": heads}.items():
        check_number(key, value)
    if width % 4 or width % heads:
        raise UserError(
            f"{RegionEncoder.name}.width={width} must be a multiple of 4 and of {RegionEncoder.name}.heads={heads}"
        )
    form = RegionForm(num_tokens, grid)
    return RegionResampler(plan.vision.shape.patch_dim, plan.vision.llm_dim, form, width, heads)


class RegionResampler(RegionEncoder):
    """The module of :func:`region_resampler`.

    Keys and values are a linear map of the patch tokens' layer norm, plus fixed positions, so that the tokens also tell
    where in the picture the region is. A patch that the region covers in part has a lower score, by the logarithm of
    the share; one that it does not touch is not seen.

    Args:
        patch_dim: width D of a patch token.
        dim: width d of the language model.
        form: how regions are read.
        width: width of the attention.
        heads: attention heads.
    """

    def __init__(self, patch_dim: int, dim: int, form: RegionForm, width: int, heads: int) -> None:
        super().__init__()
        self.form, self.width, self.heads = form, width, heads
        self.patches = nn.Sequential(nn.LayerNorm(patch_dim), nn.Linear(patch_dim, width))
        self.queries = nn.Parameter(torch.randn(form.num_tokens, width))
        self.to_key_value = nn.Linear(width, 2 * width)
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, dim))

    def config(self) -> dict[str, Any]:
        """Return the function's name and its options."""
        options = {"num_tokens": self.form.num_tokens, "width": self.width, "heads": self.heads}
        return {"_component_": "medcap.models.region_resampler", **options}

    def forward(self, patches: Tensor, weights: Tensor) -> Tensor:
        """See :meth:`RegionEncoder.forward`."""
        tokens = self.patches(patches.float())  # [Q, T, w]
        tokens = tokens + positions(grid_centres(self.form.grid, tokens.device), self.width)
        keys, values = map(self._split, self.to_key_value(tokens).chunk(2, dim=-1))  # [Q, heads, T, w / heads]
        queries = self._split(self.queries.expand(len(patches), -1, -1))  # [Q, heads, K, w / heads]
        # The logarithm of 0 hides a patch.
        bias = weights.log()[:, None, None]  # [Q, 1, 1, T]
        found = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=bias.to(queries.dtype))
        return self.mlp(self.norm(found.transpose(1, 2).flatten(2)))

    def _split(self, states: Tensor) -> Tensor:
        """``[Q, n, w]`` -> ``[Q, heads, n, w / heads]``."""
        return states.unflatten(2, (self.heads, -1)).transpose(1, 2)
