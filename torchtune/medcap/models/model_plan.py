"""What a component is told of the model that it is built for.

The plan itself is ``ModelPlan`` of ``medcap.checkpoints.build_model``, which this layer may not import.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class TowerShape(Protocol):
    """Shape of the tower's output."""

    @property
    def num_patches(self) -> int: ...

    @property
    def patch_dim(self) -> int: ...


class Picture(Protocol):
    """What the tower is shown."""

    @property
    def image_size(self) -> int: ...


class VisionSide(Protocol):
    """Tower and projector."""

    @property
    def shape(self) -> TowerShape: ...

    @property
    def preprocess(self) -> Picture: ...

    @property
    def llm_dim(self) -> int: ...

    @property
    def takes(self) -> str: ...


class OtherComponent(Protocol):
    """A component beside tower and projector."""

    @property
    def name(self) -> str: ...

    @property
    def config(self) -> dict[str, Any]: ...


class PlannedModel(Protocol):
    """A model of which no weights are there yet."""

    @property
    def vision(self) -> VisionSide: ...

    @property
    def further(self) -> Sequence[OtherComponent]: ...
