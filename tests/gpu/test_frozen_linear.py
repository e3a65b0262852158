"""Low-precision linear maps on a GPU, by the hardware's own products where it has them."""

import pytest
import torch
from torch import nn

from medcap.errors import UserError
from medcap.modules.frozen_linear import check_device, quantise_layer
from medcap.modules.frozen_linear.fp8 import multiply_fp8, quantise_rows

# Relative errors (Frobenius norm) on Gaussian weights; the hardware's fp8 product is rounded to bf16 besides.
TOLERANCES = {"fp8": 0.06, "int8": 0.02, "nf4": 0.15}


@pytest.fixture
def checked(device):
    """Skips where a device has no products of a precision."""

    def check(precision):
        try:
            check_device(precision, device)
        except UserError as error:
            pytest.skip(str(error))
        return device

    return check


def relative_error(found, expected):
    return float((found.double().cpu() - expected.double().cpu()).norm() / expected.double().cpu().norm())


def run(linear, states, gradient):
    states = states.clone().requires_grad_()
    output = linear(states)
    output.backward(gradient)
    return output.detach(), states.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("outputs", "inputs"), [(96, 192), (256, 64), (7, 64)])
@pytest.mark.parametrize("tokens", [1, 37, 256])
@pytest.mark.parametrize("precision", TOLERANCES)
def test_values_and_gradients_are_near_float32_and_the_cpus(checked, precision, tokens, outputs, inputs, dtype):
    device = checked(precision)
    torch.manual_seed(outputs)
    plain = nn.Linear(inputs, outputs, bias=True).requires_grad_(False)
    nn.init.normal_(plain.weight)
    layer = nn.Sequential(nn.Linear(inputs, outputs, bias=True))
    layer[0].load_state_dict(plain.state_dict())
    quantise_layer(layer, precision)
    states, gradient = torch.randn(tokens, inputs), torch.randn(tokens, outputs)
    expected = run(plain, states, gradient)
    here = run(layer[0], states, gradient)
    there = run(layer.to(device)[0], states.to(device, dtype), gradient.to(device, dtype))
    for found, of_cpu, exact in zip(there, here, expected, strict=True):
        assert found.dtype == dtype and found.device.type == device.type
        assert relative_error(found, exact) < TOLERANCES[precision]
        # fp8 rounds what the dtype changed a little to another of its numbers now and then.
        assert relative_error(found, of_cpu) < (0.03 if precision == "fp8" else 1e-2)


@pytest.mark.parametrize("tokens", [1, 16, 129, 601])
def test_scaled_products_are_those_of_the_decoded_numbers(checked, tokens):
    device = checked("fp8")
    torch.manual_seed(0)
    rows, columns = (quantise_rows(torch.randn(size, 64)) for size in (tokens, 48))
    expected = multiply_fp8(*rows, columns[0], columns[1].T)
    found = multiply_fp8(*(part.to(device) for part in (*rows, columns[0], columns[1].T)))
    assert found.shape == (tokens, 48)
    assert relative_error(found, expected) < 5e-3
