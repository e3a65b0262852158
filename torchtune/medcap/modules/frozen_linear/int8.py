"""Weights of 8-bit integers, one scale for each output row; activations and products keep the decoder's dtype."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from medcap.modules.frozen_linear.base import RowScaledLinear, cast, row_scales

_MOST = 127
# Rows up to which torch's own kernel for the CPU, which reads the integers as they are, is used; it takes bf16 only.
_FEW_ROWS = 4


class Int8Linear(RowScaledLinear):
    """``y = (x Q^T) s`` with a symmetric int8 weight ``Q`` and an fp32 scale ``s`` for each of its rows.

    A weight whose rows are integers times ``max |row| / 127`` is kept exactly. The integers are exact in bf16 too; they
    are converted for each product and no converted copy stays.
    """

    precision: ClassVar[str] = "int8"

    @staticmethod
    def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
        weight = weight.float()
        scale = row_scales(weight, _MOST)
        return (weight / scale).round().to(torch.int8), scale

    def product(self, rows: Tensor) -> Tensor:
        needs_gradient = torch.is_grad_enabled() and rows.requires_grad
        if torch.compiler.is_compiling() and len(rows) == 1 and not needs_gradient:
            # A compiler makes one loop of this, which reads the integers; before a matrix product it would write them
            # out as bf16.
            sums = (self.quantised * rows.float()).sum(dim=-1)  # [out]
            return (sums * self.scale).to(rows.dtype)[None]
        few = len(rows) <= _FEW_ROWS and rows.device.type == "cpu" and rows.dtype == torch.bfloat16
        if few and len(rows) and not needs_gradient:
            # Its scales would be rounded to bf16, so they are left out and multiplied with afterwards.
            ones = rows.new_ones(self.out_features)
            return (torch.ops.aten._weight_int8pack_mm(rows.contiguous(), self.quantised, ones) * self.scale).to(
                rows.dtype
            )
        return _Int8Product.apply(rows, self.quantised, self.scale)


class _Int8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, quantised: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(quantised, scale)
        return cast(_multiply(rows, quantised) * scale, rows.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        quantised, scale = ctx.saved_tensors
        return _multiply_transposed(cast(gradient * scale, gradient.dtype), quantised), None, None


# [Contract] one operator each for torch.compile. Of the plain formulas it sees that both passes convert the same
# weight, and keeps the converted one from forward to backward: as much memory as without quantisation.
@torch.library.custom_op("medcap::int8_product", mutates_args=())
def _multiply(rows: Tensor, quantised: Tensor) -> Tensor:
    """``[n, in] -> [n, out]`` with the integers ``[out, in]``."""
    return rows @ quantised.to(rows.dtype).T


@_multiply.register_fake
def _(rows: Tensor, quantised: Tensor) -> Tensor:
    return rows.new_empty(rows.shape[0], quantised.shape[0])


@torch.library.custom_op("medcap::int8_gradient", mutates_args=())
def _multiply_transposed(gradient: Tensor, quantised: Tensor) -> Tensor:
    """``[n, out] -> [n, in]`` with the integers ``[out, in]``."""
    return gradient @ quantised.to(gradient.dtype)


@_multiply_transposed.register_fake
def _(gradient: Tensor, quantised: Tensor) -> Tensor:
    return gradient.new_empty(gradient.shape[0], quantised.shape[1])
