"""Weights of 4-bit NormalFloat numbers, by bitsandbytes; activations and products keep the decoder's dtype."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from bitsandbytes.functional import QuantState, dequantize_4bit, quantize_4bit
from torch import Tensor, nn

from medcap.modules.frozen_linear.base import FrozenLinear

_BLOCK = 64
# Block maxima that share one scale when they are quantised themselves.
_MAXIMA_BLOCK = 256
_MAXIMA_LEVELS = 256


class Nf4Linear(FrozenLinear):
    """``y = x W^T`` with a weight of 4-bit NormalFloats: QLoRA's (Dettmers et al. 2023, section 3), block size 64.

    The block maxima are themselves quantised to 8 bits ("double quantisation"): 4.13 bits a weight. It is decoded for
    each product and no decoded copy stays; on a GPU, products without a gradient read it as it is.
    """

    precision: ClassVar[str] = "nf4"
    quantised: Tensor  # [out * in / 2, 1] uint8
    maxima: Tensor  # [out * in / 64] uint8
    maxima_mean: Tensor  # []
    maxima_scale: Tensor  # [out * in / 64 / 256]
    maxima_levels: Tensor  # [256]

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear)
        # As one row, so that a block may begin within a row of the weight.
        flat = linear.weight.detach().reshape(-1)
        quantised, state = quantize_4bit(flat, blocksize=_BLOCK, compress_statistics=True, quant_type="nf4")
        self.register_buffer("quantised", quantised)
        self.register_buffer("maxima", state.absmax)
        self.register_buffer("maxima_mean", state.offset)
        assert state.state2 is not None, "compress_statistics quantises the maxima too"
        self.register_buffer("maxima_scale", state.state2.absmax)
        # A copy: on the CPU it is bitsandbytes' own table.
        self.register_buffer("maxima_levels", state.state2.code.clone())

    def product(self, rows: Tensor) -> Tensor:
        if _has_kernel(rows, self.in_features):
            return torch.ops.bitsandbytes.gemm_4bit.default(
                rows,
                self.quantised,
                [self.out_features, self.in_features],
                self.maxima_scale,
                _BLOCK,
                self.precision,
                absmax_8bit=self.maxima,
                absmax_code=self.maxima_levels,
                absmax_offset=self.maxima_mean,
            )
        return _Nf4Product.apply(rows, self.out_features, *self._state())

    def decoded(self, dtype: torch.dtype) -> Tensor:
        return _decode(dtype, self.out_features, *self._state())

    def _state(self) -> tuple[Tensor, ...]:
        return self.quantised, self.maxima, self.maxima_mean, self.maxima_scale, self.maxima_levels

    @staticmethod
    def num_bytes(out_features: int, in_features: int) -> int:
        blocks = out_features * in_features // _BLOCK
        return blocks * _BLOCK // 2 + blocks + 4 * (-(-blocks // _MAXIMA_BLOCK) + 1 + _MAXIMA_LEVELS)

    @staticmethod
    def why_impossible(out_features: int, in_features: int) -> str | None:
        if out_features * in_features % _BLOCK:
            return f"its {out_features} x {in_features} numbers cannot be divided into blocks of {_BLOCK}"
        return None


def _has_kernel(rows: Tensor, in_features: int) -> bool:
    """Return whether bitsandbytes has a product with the packed numbers; it decodes them where that is faster."""
    return (
        rows.device.type == "cuda"
        and len(rows) > 0
        and in_features % _BLOCK == 0
        and not (torch.is_grad_enabled() and rows.requires_grad)
    )


class _Nf4Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, out_features: int, *state: Tensor) -> Tensor:
        ctx.save_for_backward(*state)
        ctx.out_features = out_features
        return _multiply(rows, out_features, list(state))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        state = ctx.saved_tensors
        return _multiply_transposed(gradient, ctx.out_features, list(state)), None, *(None for _ in state)


# [Contract] one operator each for torch.compile, which otherwise keeps the decoded weight of the forward pass.
@torch.library.custom_op("medcap::nf4_product", mutates_args=())
def _multiply(rows: Tensor, out_features: int, state: list[Tensor]) -> Tensor:
    """``[n, in] -> [n, out]``."""
    return rows @ _decode(rows.dtype, out_features, *state).T


@_multiply.register_fake
def _(rows: Tensor, out_features: int, state: list[Tensor]) -> Tensor:
    return rows.new_empty(rows.shape[0], out_features)


@torch.library.custom_op("medcap::nf4_gradient", mutates_args=())
def _multiply_transposed(gradient: Tensor, out_features: int, state: list[Tensor]) -> Tensor:
    """``[n, out] -> [n, in]``."""
    return gradient @ _decode(gradient.dtype, out_features, *state)


@_multiply_transposed.register_fake
def _(gradient: Tensor, out_features: int, state: list[Tensor]) -> Tensor:
    return gradient.new_empty(gradient.shape[0], 2 * state[0].numel() // out_features)


def _decode(
    dtype: torch.dtype,
    out_features: int,
    quantised: Tensor,
    maxima: Tensor,
    maxima_mean: Tensor,
    maxima_scale: Tensor,
    maxima_levels: Tensor,
) -> Tensor:
    """Return the weight, ``[out_features, in_features]``."""
    of_maxima = QuantState(absmax=maxima_scale, code=maxima_levels, blocksize=_MAXIMA_BLOCK, dtype=torch.float32)
    state = QuantState(
        absmax=maxima,
        # One row: for a vector, bitsandbytes' CPU kernel returns another shape than it reports to torch.compile.
        shape=torch.Size([1, 2 * quantised.numel()]),
        dtype=dtype,
        blocksize=_BLOCK,
        quant_type="nf4",
        offset=maxima_mean,
        state2=of_maxima,
    )
    return dequantize_4bit(quantised, state).view(out_features, -1)
