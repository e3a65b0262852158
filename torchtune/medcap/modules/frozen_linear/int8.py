"""Weights of 8-bit integers, one scale for each output row; activations and products keep the decoder's dtype."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from medcap.modules.frozen_linear.base import FrozenLinear, cast

_MOST = 127


class Int8Linear(FrozenLinear):
    """``y = (x Q^T) s`` with a symmetric int8 weight ``Q`` and an fp32 scale ``s`` for each of its rows.

    A weight whose rows are integers times ``max |row| / 127`` is kept exactly. The integers are exact in bf16 too; they
    are converted for each product and no converted copy stays.
    """

    precision: ClassVar[str] = "int8"

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        weight = linear.weight.detach().float()
        # A row of zeros has no largest number to divide by.
        scale = (weight.abs().amax(dim=1, keepdim=True) / _MOST).clamp(min=torch.finfo(torch.float32).tiny)
        self.register_buffer("quantised", (weight / scale).round().to(torch.int8))  # [out, in]
        self.register_buffer("scale", scale.squeeze(1))  # [out]

    def product(self, rows: Tensor) -> Tensor:
        return _Int8Product.apply(rows, self.quantised, self.scale)

    def decoded(self, dtype: torch.dtype) -> Tensor:
        return (self.quantised.float() * self.scale[:, None]).to(dtype)

    @staticmethod
    def num_bytes(out_features: int, in_features: int) -> int:
        return out_features * in_features + 4 * out_features


class _Int8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor, quantised: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(quantised, scale)
        return cast((rows @ quantised.to(rows.dtype).T) * scale, rows.dtype)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, ...]:
        quantised, scale = ctx.saved_tensors
        return cast(gradient * scale, gradient.dtype) @ quantised.to(gradient.dtype), None, None
