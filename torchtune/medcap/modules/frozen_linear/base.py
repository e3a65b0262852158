"""What the frozen linear maps of all precisions share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn


class FrozenLinear(nn.Module, ABC):
    """A linear map whose weight never learns and is kept in low precision.

    Its backward pass returns the gradient of the input only, so nothing of the input is kept for it. The bias, where
    there is one, keeps its dtype.

    Args:
        linear: linear layer whose weight is quantised, once; it is not changed.

    Attributes:
        precision: what the key ``llm_weights`` calls it.
        in_features: width of the input.
        out_features: width of the output.
    """

    precision: ClassVar[str]

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.bias = None if linear.bias is None else nn.Parameter(linear.bias.detach(), requires_grad=False)

    def forward(self, states: Tensor) -> Tensor:
        """Multiply.

        Args:
            states: ``[..., in_features]``, any floating-point dtype; the number of tokens may
                be 0.

        Returns:
            ``[..., out_features]`` of the same dtype.
        """
        product = self.product(states.reshape(-1, self.in_features))  # [n, out_features]
        if self.bias is not None:
            product = product + self.bias.to(product.dtype)
        return product.view(*states.shape[:-1], self.out_features)

    @abstractmethod
    def product(self, rows: Tensor) -> Tensor:
        """``[n, in_features] -> [n, out_features]`` without the bias."""

    @abstractmethod
    def decoded(self, dtype: torch.dtype) -> Tensor:
        """Return the dequantised weight, ``[out_features, in_features]``."""

    @staticmethod
    @abstractmethod
    def num_bytes(out_features: int, in_features: int) -> int:
        """Bytes of a quantised weight with its scales and tables."""

    @staticmethod
    def why_impossible(out_features: int, in_features: int) -> str | None:
        """Why a weight of this shape cannot be quantised; None if it can."""
        return None

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, {self.precision}, bias={self.bias is not None}"


class RowScaledLinear(FrozenLinear):
    """One of 8-bit numbers with an fp32 scale for each row of the weight."""

    quantised: Tensor  # [out, in]
    scale: Tensor  # [out]

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        quantised, scale = self.quantise(linear.weight.detach())
        self.register_buffer("quantised", quantised)
        self.register_buffer("scale", scale.squeeze(1))

    @staticmethod
    @abstractmethod
    def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
        """``[out, in]`` -> the 8-bit numbers ``[out, in]`` and the scales ``[out, 1]``."""

    def decoded(self, dtype: torch.dtype) -> Tensor:
        return (self.quantised.float() * self.scale[:, None]).to(dtype)

    @staticmethod
    def num_bytes(out_features: int, in_features: int) -> int:
        return out_features * in_features + 4 * out_features


def row_scales(rows: Tensor, largest: float) -> Tensor:
    """Return what each row must be divided by for its largest magnitude to become ``largest``: ``[n, k] -> [n, 1]``."""
    # A row of zeros has no largest magnitude to divide by.
    return (rows.abs().amax(dim=1, keepdim=True) / largest).clamp(min=torch.finfo(rows.dtype).tiny)


def cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """``tensor.to(dtype)`` for what a ``torch.autograd.Function`` returns."""
    # [Contract] torch.compile (2.11) drops the gradient of a Function whose result went through a ``to`` that changed
    # nothing, without a word.
    return tensor if tensor.dtype == dtype else tensor.to(dtype)
