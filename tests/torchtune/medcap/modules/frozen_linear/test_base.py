"""What holds of every precision: values, gradients, what is kept, and in which surroundings it works."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from medcap.modules.frozen_linear import FrozenLinear, quantise_layer

PRECISIONS = ("fp8", "int8", "nf4")
# Relative errors (Frobenius norm) on Gaussian weights: of the weight, and of what is multiplied with it.
TOLERANCES = {"fp8": 0.04, "int8": 0.012, "nf4": 0.14}
# fp8 rounds the other factor too; all else computes with the decoded weight, up to the dtype's rounding.
ROUNDING = {torch.float32: 2e-6, torch.bfloat16: 8e-3}
SHAPES = [(48, 32), (7, 64), (64, 5), (96, 192)]


def quantised(precision: str, outputs: int, inputs: int, dtype: torch.dtype, bias: bool = False):
    """A linear map with Gaussian weights, one row of them zero, and the same quantised."""
    torch.manual_seed(outputs)
    plain = nn.Linear(inputs, outputs, bias=bias)
    nn.init.normal_(plain.weight)
    with torch.no_grad():
        plain.weight[outputs // 2] = 0
    plain.requires_grad_(False).to(dtype)
    layer = nn.Sequential(nn.Linear(inputs, outputs, bias=bias))
    layer.load_state_dict({f"0.{name}": tensor for name, tensor in plain.state_dict().items()})
    layer.to(dtype)
    quantise_layer(layer, precision)
    assert isinstance(layer[0], FrozenLinear)
    return plain, layer[0]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def run(linear: nn.Module, states: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    states = states.clone().requires_grad_()
    output = linear(states)
    output.backward(gradient)
    return output.detach(), states.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_values_and_input_gradients_are_near_those_of_the_plain_map(
    precision: str, outputs: int, inputs: int, dtype: torch.dtype
) -> None:
    plain, frozen = quantised(precision, outputs, inputs, dtype, bias=True)
    states = torch.randn(3, 5, inputs, dtype=dtype)
    gradient = torch.randn(3, 5, outputs, dtype=dtype)
    found, expected = run(frozen, states, gradient), run(plain, states, gradient)
    weight = frozen.decoded(torch.float32)
    assert relative_error(weight, plain.weight) < TOLERANCES[precision]
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == dtype
        assert one.shape == other.shape
        assert relative_error(one, other) < TOLERANCES[precision] + ROUNDING[dtype]
    # The weight is what it decodes to, in both directions.
    exact = states.float() @ weight.T + plain.bias.float(), gradient.float() @ weight
    other_factor = TOLERANCES["fp8"] if precision == "fp8" else 0
    for one, other in zip(found, exact, strict=True):
        assert relative_error(one, other) < other_factor + ROUNDING[dtype]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_row_of_zeros_stays_one(precision: str) -> None:
    _, frozen = quantised(precision, 64, 64, torch.float32)
    assert not frozen.decoded(torch.float32)[32].any()
    assert not frozen(torch.randn(4, 64))[:, 32].any()


@pytest.mark.parametrize("shape", [(0, 64), (2, 0, 64), (64,), (1, 1, 64), (2, 3, 4, 64)])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_any_leading_shape_and_no_token_at_all(precision: str, shape: tuple[int, ...]) -> None:
    _, frozen = quantised(precision, 48, 64, torch.float32, bias=True)
    states = torch.randn(shape)
    output, gradient = run(frozen, states, torch.ones(*shape[:-1], 48))
    assert output.shape == (*shape[:-1], 48)
    assert gradient.shape == shape
    rows = states.reshape(-1, 64)
    torch.testing.assert_close(
        output.reshape(-1, 48), torch.stack([frozen(row) for row in rows]) if len(rows) else rows[:, :48]
    )


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nothing_of_the_input_is_kept_and_no_weight_learns(precision: str) -> None:
    _, frozen = quantised(precision, 48, 64, torch.float32, bias=True)
    own = {tensor.data_ptr() for tensor in frozen.buffers()}
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        output = frozen(torch.randn(5, 64, requires_grad=True))
    assert {tensor.data_ptr() for tensor in kept} == own
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    output.sum().backward()
    assert all(parameter.grad is None for parameter in frozen.parameters())


@pytest.mark.parametrize("precision", PRECISIONS)
def test_without_gradients_and_under_checkpointing_the_numbers_are_the_same(precision: str) -> None:
    _, frozen = quantised(precision, 48, 64, torch.bfloat16)
    states, gradient = torch.randn(5, 64).bfloat16(), torch.randn(5, 48).bfloat16()
    expected = run(frozen, states, gradient)
    with torch.no_grad():
        torch.testing.assert_close(frozen(states), expected[0], rtol=0, atol=0)
    again = run(lambda states: checkpoint(frozen, states, use_reentrant=False), states, gradient)
    for one, other in zip(again, expected, strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_it_compiles_as_one_graph(precision: str, dtype: torch.dtype) -> None:
    _, frozen = quantised(precision, 48, 64, dtype, bias=True)
    states, gradient = torch.randn(2, 5, 64, dtype=dtype), torch.randn(2, 5, 48, dtype=dtype)
    expected = run(frozen, states, gradient)
    torch._dynamo.reset()
    compiled = torch.compile(frozen, backend="aot_eager", fullgraph=True)
    for one, other in zip(run(compiled, states, gradient), expected, strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(compiled(states), expected[0])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_numbers_that_are_not_finite_stay_so(precision: str) -> None:
    _, frozen = quantised(precision, 48, 64, torch.float32)
    states = torch.randn(3, 64)
    states[0, 3], states[1, 5] = torch.inf, torch.nan
    output, gradient = run(frozen, states, torch.full((3, 48), torch.nan))
    assert not output[:2].isfinite().all(dim=1).any()
    assert output[2].isfinite().all()
    assert not gradient.isfinite().any()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_bytes_are_those_of_the_buffers(precision: str) -> None:
    for outputs, inputs in SHAPES:
        _, frozen = quantised(precision, outputs, inputs, torch.bfloat16)
        held = sum(tensor.nbytes for tensor in frozen.buffers())
        assert held == type(frozen).num_bytes(outputs, inputs)
    large = type(frozen).num_bytes(4096, 14336) / (4096 * 14336)
    assert large == pytest.approx({"fp8": 1, "int8": 1, "nf4": 0.5 + 1 / 64 + 4 / 64 / 256}[precision], rel=1e-3)
