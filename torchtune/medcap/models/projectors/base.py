"""What a projector is, and how a configuration names one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medcap.errors import UserError
from medcap.instantiate import check_arguments, find_component
from medcap.models.component import Component
from medcap.models.towers.base import TowerShape


class Projector(Component):
    """Turns a tower's output into the image tokens that replace an image's placeholders.

    A projector is one file with a function ``component(tower_shape, llm_dim, **options)`` that returns a subclass;
    a configuration names the function as ``_component_`` and gives the options. ``forward`` maps ``[N, T, D]``
    (``takes`` "patches") or ``[N, D_pooled]`` (``takes`` "pooled") to ``[N, num_image_tokens, llm_dim]``.

    Attributes:
        takes: "patches" or "pooled".
        num_image_tokens: K, rows for one image.
        options: ``_component_`` and the options that built it.
    """

    name = "projector"
    label = "projector"
    takes: str
    num_image_tokens: int
    options: Mapping[str, Any]

    def config(self) -> dict[str, Any]:
        """Return the component's name with its options, and K."""
        return {"projector": dict(self.options), "num_image_tokens": self.num_image_tokens}

    @classmethod
    def summary(cls, config: Mapping[str, Any]) -> str:
        """Name the kind and the number of tokens."""
        return f"{config['projector']['_component_'].rpartition('.')[2]}, {config['num_image_tokens']} tokens an image"


def build_projector(config: Mapping[str, Any], tower_shape: TowerShape, llm_dim: int) -> Projector:
    """Build a projector with random initial weights on the current default device.

    Args:
        config: ``_component_`` and its options.
        tower_shape: shape of the tower's output.
        llm_dim: width of the language model's embeddings.

    Raises:
        UserError: for an unknown component or option, or a projector that does not fit the tower.
    """
    options = {key: value for key, value in config.items() if key != "_component_"}
    component = _find(config)
    check_arguments(component, options, "projector", passed=2)
    projector = component(tower_shape, llm_dim, **options)
    if getattr(projector, "takes", None) not in ("patches", "pooled"):
        raise UserError(f"projector={config['_component_']} must say that it takes patches or pooled")
    projector.options = dict(config)
    return projector


def pooled_dim(tower_shape: TowerShape) -> int:
    """Width of the tower's pooled vector.

    Raises:
        UserError: if the tower has none.
    """
    if tower_shape.pooled_dim == 0:
        raise UserError("projector takes a pooled vector, but this tower has none: use projector=medcap.models.mlp")
    return tower_shape.pooled_dim


def positive(name: str, value: Any) -> int:
    """Return a positive whole number of the configuration.

    Raises:
        UserError: if it is something else; the message names the key.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"projector.{name}={value!r} must be a positive whole number")
    return value


def _find(config: Mapping[str, Any]) -> Callable[..., Projector]:
    name = config.get("_component_")
    if not isinstance(name, str):
        raise UserError("projector._component_ is missing: give medcap.models.mlp or medcap.models.pooled_mlp")
    return find_component(name, "projector._component_")
