from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from helpers.pretend_cuda import pretend_cuda
from medcap.modules.frozen_linear.fp8 import Fp8Linear, _Fp8Product, multiply_fp8, quantise_rows


def test_rows_that_e4m3_can_represent_are_kept_exactly() -> None:
    # 448 times a power of two, and numbers of three bits after the leading one; the last is the smallest subnormal.
    rows = torch.tensor([[448.0, -1.125, 0.0, 2.0**-9], [0.5 * 448, 15.0, -0.0546875, 2.0**-10]])
    numbers, scale = quantise_rows(rows)
    assert numbers.dtype == torch.float8_e4m3fn
    assert scale.tolist() == [[1.0], [0.5]]
    assert torch.equal(numbers.float() * scale, rows)


def test_the_products_of_representable_factors_are_exact() -> None:
    linear = nn.Linear(4, 2, bias=False)
    linear.weight = nn.Parameter(torch.tensor([[448.0, 2.0, 0.0, -1.5], [0.0, 224.0, 7.0, 1.0]]))
    states = torch.tensor([[448.0, 0.0, 1.0, -2.0], [1.0, 28.0, 0.5, 0.0]], requires_grad=True)
    output = Fp8Linear(linear)(states)
    assert output.tolist() == [[448.0**2 + 3, 5.0], [504.0, 28 * 224 + 3.5]]
    # dY times the weight's scales 1 and 0.5 is representable with 448 or a power of two of it in each row
    output.backward(torch.tensor([[448.0, 4.0], [0.0, 56.0]]))
    assert states.grad.tolist() == (torch.tensor([[448.0, 4.0], [0.0, 56.0]]) @ linear.weight).tolist()


def test_each_token_has_a_scale_of_its_own() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(64, 48, bias=False)
    frozen, states = Fp8Linear(linear), torch.randn(2, 64)
    alone = frozen(states)
    # 2^-20 is far below the other token's smallest number.
    torch.testing.assert_close(
        frozen(states * torch.tensor([[2.0**20], [2.0**-20]])), alone * torch.tensor([[2.0**20], [2.0**-20]])
    )


class _Saved:
    """What the backward pass is given of the forward pass."""

    def __init__(self, *tensors: Tensor) -> None:
        self.saved_tensors = tensors


@pytest.mark.slow
def test_operands_are_what_the_hardware_product_demands() -> None:
    # A GPU's tensors without numbers: torch checks device, strides, sides and scales of its fp8 product all the same.
    calls = []
    with FakeTensorMode(), torch.no_grad():
        frozen = Fp8Linear(nn.Linear(64, 96, bias=False, device="cuda", dtype=torch.bfloat16))
        for tokens in (0, 1, 5, 16):
            output = frozen(torch.empty(tokens, 64, device="cuda", dtype=torch.bfloat16))
            gradient, *others = _Fp8Product.backward(_Saved(frozen.quantised, frozen.scale), output)
            calls.append((tuple(output.shape), tuple(gradient.shape), output.dtype, gradient.dtype, others))
            product = multiply_fp8(*quantise_rows(output.float()), frozen.quantised.t(), frozen.scale.new_ones(1, 64))
            # What only the hardware gives; it is not asked where there is nothing to multiply.
            assert product.dtype == (torch.bfloat16 if tokens else torch.float32)
        odd = Fp8Linear(nn.Linear(64, 40, bias=False, device="cuda"))
        assert (
            multiply_fp8(*quantise_rows(torch.empty(3, 64, device="cuda")), odd.quantised, odd.scale[None]).dtype
            == torch.float32
        )
    both = torch.bfloat16
    assert calls == [((n, 96), (n, 64), both, both, [None, None]) for n in (0, 1, 5, 16)]


@pytest.mark.parametrize(("tokens", "launched"), [(0, 0), (3, 1)])
def test_the_hardwares_product_is_not_asked_for_no_tokens(tokens: int, launched: int) -> None:
    torch.manual_seed(0)
    linear = Fp8Linear(nn.Linear(32, 48, bias=False))
    states = torch.randn(tokens, 32, dtype=torch.bfloat16)
    expected = linear(states)
    products = []

    def counted(*arguments: Any, scaled_mm: Any = torch._scaled_mm, **options: Any) -> Tensor:
        products.append(arguments[0].shape)
        return scaled_mm(*arguments, **options)

    with pretend_cuda() as device, mock.patch.object(torch, "_scaled_mm", counted):
        found = linear.to(device)(states.to(device)).cpu()
    assert found.shape == (tokens, 48) and found.dtype == torch.bfloat16 and len(products) == launched
    torch.testing.assert_close(found, expected)
