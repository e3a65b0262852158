"""What every vision tower has: a specification, its own preprocessing, patch tokens and a pooled vector."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from medcap.errors import UserError
from medcap.models.component import Component
from medcap.models.preprocess import Preprocess

T = TypeVar("T")
# What was measured of an architecture. A program builds the same one more than once, on the meta device and to train.
_MEASURED: dict[tuple[type, str, str], Any] = {}


@dataclass(frozen=True)
class TowerShape:
    """Shape of a tower's output for one image.

    Attributes:
        num_patches: patch tokens, T.
        patch_dim: width of a patch token, D.
        pooled_dim: width of the pooled vector, 0 if the tower has none.
    """

    num_patches: int
    patch_dim: int
    pooled_dim: int


class Tower(Component, ABC):
    """A vision encoder; a subclass is built by ``(spec, preprocess)`` alone, without weights and without a network.

    Args:
        spec: everything that rebuilds the architecture, as JSON values; ``spec["kind"]`` names the class.
        preprocess: the preprocessing that the weights were trained with.

    Attributes:
        has_pooled: whether there is a pooled vector.
    """

    name = "vision"
    label = "vision tower"
    has_pooled = True

    def __init__(self, spec: dict[str, Any], preprocess: Preprocess) -> None:
        super().__init__()
        self.spec = spec
        self.preprocess = preprocess

    @abstractmethod
    def encode_patches(self, images: Tensor) -> Tensor:
        """Patch tokens: ``[N, 3, H, W]`` -> ``[N, T, D]``, row-major over the image."""

    @abstractmethod
    def encode_pooled(self, images: Tensor) -> Tensor:
        """One vector an image, not normalised: ``[N, 3, H, W]`` -> ``[N, D_pooled]``."""

    def restore_buffers(self) -> None:
        """Recompute buffers that no checkpoint holds, after a construction on the meta device."""

    def on_meta(self) -> Tower:
        """Return the same architecture without memory."""
        with torch.device("meta"):
            return type(self)(self.spec, self.preprocess)

    @property
    def shape(self) -> TowerShape:
        """Measured by running the architecture without numbers."""
        return self._measure("shape", self._find_shape)

    def _measure(self, what: str, find: Callable[[], T]) -> T:
        """Return what follows from the architecture alone; find it out only once in a program."""
        architecture = json.dumps([self.spec, self.preprocess.to_dict()], sort_keys=True, default=repr)
        key = (type(self), architecture, what)
        if key not in _MEASURED:
            _MEASURED[key] = find()
        return _MEASURED[key]

    def _find_shape(self) -> TowerShape:
        twin = self.on_meta().eval()
        with torch.no_grad():
            patches = twin.encode_patches(twin._blank_image())
            pooled = twin.encode_pooled(twin._blank_image()) if self.has_pooled else None
        if patches.ndim != 3 or (pooled is not None and pooled.ndim != 2):
            raise UserError(f"vision: this {self.spec['kind']} model gives no patch tokens that can be used")
        return TowerShape(patches.shape[1], patches.shape[2], 0 if pooled is None else pooled.shape[1])

    def config(self) -> dict[str, Any]:
        """Return specification and preprocessing."""
        return {"tower": self.spec, "preprocess": self.preprocess.to_dict()}

    @classmethod
    def summary(cls, config: Mapping[str, Any]) -> str:
        """Name the size of its images."""
        size, tiles = config["preprocess"]["image_size"], config["preprocess"].get("tiles")
        return f"{size} x {size} pixels" + (f", up to {tiles} crops of an image beside it" if tiles else "")

    def unused(self, components: Mapping[str, Component]) -> frozenset[str]:
        """Find the parameters that the model's projector leaves without a gradient; see ``unused_parameters``."""
        return self.unused_parameters(cast(Any, components["projector"]).takes)

    def unused_parameters(self, takes: str) -> frozenset[str]:
        """Names of the parameters that get no gradient when only one output is used.

        Code that counts, optimises or reduces trained parameters leaves these out.

        Args:
            takes: "patches" or "pooled", as a projector's ``takes``.

        Returns:
            Names as in ``named_parameters()``; exact, because the backward pass is run on the meta device.
        """
        return self._measure(f"unused, {takes}", lambda: self._find_unused(takes))

    def _find_unused(self, takes: str) -> frozenset[str]:
        twin = self.on_meta().eval()
        encode = {"patches": twin.encode_patches, "pooled": twin.encode_pooled}[takes]
        with torch.enable_grad():
            output = encode(twin._blank_image())
            trainable = {name: value for name, value in twin.named_parameters() if value.requires_grad}
            gradients = torch.autograd.grad(output.sum(), list(trainable.values()), allow_unused=True)
        used = {name for name, gradient in zip(trainable, gradients, strict=True) if gradient is not None}
        return frozenset(name for name, _ in twin.named_parameters()) - used

    def _blank_image(self) -> Tensor:
        size = self.preprocess.image_size
        return torch.zeros(1, 3, size, size, device=next(self.parameters()).device)

    def _cast(self, images: Tensor) -> Tensor:
        """Images in the dtype of the tower's weights."""
        return images.to(next(self.parameters()).dtype)
