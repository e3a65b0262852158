"""What a region encoder is: tokens of a region, between the words ``<region>`` and ``</region>``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from medcap.data.regions.patch_weights import RegionForm
from medcap.data.row_regions import REGION_WORDS
from medcap.errors import UserError
from medcap.models.component import Component
from medcap.models.model_plan import PlannedModel
from medcap.models.object_query import check_patches
from medcap.models.words import AddedWords


class RegionEncoder(Component):
    """Makes tokens of each region that a question names by ``<region></region>``.

    Attributes:
        form: how regions are read for it.
    """

    name = "region_encoder"
    label = "region encoder"
    builder = "medcap.models.mask_pooling"
    reads_patches = needs_words = True
    form: RegionForm

    @classmethod
    def summary(cls, config: Mapping[str, Any]) -> str:
        """Name the function and the number of tokens."""
        kind = str(config["_component_"]).rpartition(".")[2]
        count = config.get("num_tokens", 1)
        return f"{kind}, {count} token{'' if count == 1 else 's'} a region"

    @abstractmethod
    def forward(self, patches: Tensor, weights: Tensor) -> Tensor:
        """Encode regions.

        Args:
            patches: ``[Q, T, D]`` patch tokens of the picture that each region lies on.
            weights: ``[Q, T]`` float32, how much each patch weighs in each region; see
                ``medcap.data.regions.patch_weights``.

        Returns:
            ``[Q, K, d]`` float32.
        """


def check_plan(plan: PlannedModel) -> int:
    """See that a model has the words and the patch tokens that a region encoder needs.

    Args:
        plan: plan of the model.

    Returns:
        The edge of the tower's grid.

    Raises:
        UserError: if it does not.
    """
    words = next((part.config["tokens"] for part in plan.further if part.name == AddedWords.name), ())
    if missing := [word for word in REGION_WORDS if word not in words]:
        raise UserError(
            f"{RegionEncoder.name}: the tokens of a region stand between {' and '.join(REGION_WORDS)}, but this model"
            f" lacks {' and '.join(missing)}: add words=[{', '.join(REGION_WORDS)}], and {AddedWords.name} to trainable"
        )
    return check_patches(RegionEncoder.name, plan)


def check_number(key: str, value: Any, least: int = 1) -> int:
    """Return a whole number of the configuration; raise ``UserError`` if it is none or too small."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{RegionEncoder.name}.{key}={value!r} must be a whole number of at least {least}")
    return value
