"""Weights and activations of 8-bit floats (e4m3), multiplied as such on GPUs that can."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from medcap.modules.frozen_linear.base import RowScaledLinear, cast, row_scales

_MOST = 448.0  # the largest e4m3 number
# torch._scaled_mm's operands must have such sides.
_TILE = 16


class Fp8Linear(RowScaledLinear):
    """``y = (Q(x) Q(W)^T) s_x s_W`` with e4m3 numbers, a scale for each token and one for each row of the weight.

    The gradient of the input, ``dX = dY W``, is summed over the weight's rows, so their scales are put into ``dY``
    before it is quantised, token by token: ``dX = (Q(dY s_W) Q(W)) s``.

    A weight of e4m3 numbers times a power of two, with 448 times that power in each row, is kept exactly.

    The hardware needs the second operand of a product column by column. Forward that is the weight as it is stored; for
    the gradient it is a transposed copy, which is made for each backward pass and not kept. Kept, it would make the
    weights as large as in bf16. Made, it moves 2 bytes for each weight, while the product takes 2 n operations for it
    (n tokens): at an H100's data-sheet rates (1979e12 fp8 operations and 3.35e12 bytes a second) 591 / n of the
    product's time, a seventh at 4096 tokens.

    Without such hardware, on the CPU or for sides that are not multiples of 16, the same numbers are decoded and
    multiplied in fp32: equal up to the rounding of sums and, from the hardware, of the result to bf16.
    """

    precision: ClassVar[str] = "fp8"

    @staticmethod
    def quantise(weight: Tensor) -> tuple[Tensor, Tensor]:
        return quantise_rows(weight)

    def product(self, rows: Tensor) -> Tensor:
        return _Fp8Product.apply(rows, self.quantised, self.scale)


def quantise_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each row so that its largest number is the largest of e4m3.

    Args:
        rows: ``[n, k]``, any floating-point dtype. A row with a number that is not finite decodes to such
            numbers.

    Returns:
        ``[n, k]`` float8_e4m3fn, and the fp32 scales ``[n, 1]`` that it must be multiplied with.
    """
    rows = rows.float()
    scale = row_scales(rows, _MOST)
    return (rows / scale).to(torch.float8_e4m3fn), scale


def multiply_fp8(rows: Tensor, row_scale: Tensor, columns: Tensor, column_scale: Tensor) -> Tensor:
    """Multiply two quantised matrices.

    Args:
        rows: ``[n, k]`` float8_e4m3fn.
        row_scale: ``[n, 1]`` float32.
        columns: ``[m, k]`` float8_e4m3fn, the second factor's columns; copied where they are not contiguous.
        column_scale: ``[1, m]`` float32.

    Returns:
        ``[n, m]``: bfloat16 from the hardware, otherwise float32.
    """
    # The kernel was never said to take a matrix without rows.
    if rows.is_cuda and len(rows) and columns.shape[0] % _TILE == 0 and columns.shape[1] % _TILE == 0:
        # Row-wise scaling returns bf16. Without fast accumulation its kernels are slow; torchao chooses the same.
        return torch._scaled_mm(
            rows, columns.contiguous().t(), row_scale, column_scale, out_dtype=torch.bfloat16, use_fast_accum=True
        )
    return (rows.float() @ columns.float().T) * row_scale * column_scale


class _Fp8Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, quantised: Tensor, scale: Tensor) -> Tensor:
        ctx.save_for_backward(quantised, scale)
        return cast(multiply_fp8(*quantise_rows(rows), quantised, scale[None]), rows.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        quantised, scale = ctx.saved_tensors
        ones = scale.new_ones(1, quantised.shape[1])
        return cast(multiply_fp8(*quantise_rows(gradient * scale), quantised.t(), ones), gradient.dtype), None, None
