import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torchtune.models.gemma.rms_norm import GemmaRMSNorm
from torchtune.models.llama3_1 import Llama3ScaledRoPE
from torchtune.models.qwen2 import Qwen2RotaryPositionalEmbeddings
from torchtune.modules import FeedForward, RMSNorm, RotaryPositionalEmbeddings

from medcap.modules.frozen_functions import feed_forward, normalise, rotate, rotation_table

SHAPES = [(1, 1, 8), (2, 5, 8), (3, 0, 8)]


def both(function, plain, *inputs):
    """Values and gradients of two functions agree."""
    results = []
    for one in (function, plain):
        own = [tensor.detach().clone().requires_grad_() for tensor in inputs]
        output = one(*own)
        generator = torch.Generator().manual_seed(9)
        output.backward(torch.randn(output.shape, generator=generator).to(output.dtype))
        results.append([output.detach(), *(tensor.grad for tensor in own)])
    for found, expected in zip(*results, strict=True):
        tolerance = {"rtol": 1e-5, "atol": 1e-5} if found.dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
        assert found.dtype == expected.dtype
        torch.testing.assert_close(found, expected, **tolerance)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [RMSNorm, GemmaRMSNorm])
def test_norm_equals_the_modules_own(kind, dtype, shape):
    norm = kind(8, eps=1e-5).requires_grad_(False).to(dtype)
    norm.scale.copy_(1 + 0.3 * random(8, seed=1))
    both(lambda states: normalise(norm, states), norm, random(*shape).to(dtype))


def test_norm_of_zeros_is_finite():
    norm = RMSNorm(4, eps=1e-5).requires_grad_(False)
    states = torch.zeros(2, 4, requires_grad=True)
    normalise(norm, states).sum().backward()
    assert torch.isfinite(states.grad).all()


def gated(dtype, activation):
    torch.manual_seed(0)
    linear = [nn.Linear(8, 12, bias=False), nn.Linear(12, 8, bias=False), nn.Linear(8, 12, bias=False)]
    mlp = FeedForward(gate_proj=linear[0], down_proj=linear[1], up_proj=linear[2], activation=activation)
    return mlp.requires_grad_(False).to(dtype)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [nn.SiLU(), nn.GELU()])
def test_feed_forward_equals_the_modules_own(activation, dtype, shape):
    mlp = gated(dtype, activation)
    both(lambda states: feed_forward(mlp, states), mlp, random(*shape).to(dtype))


def test_feed_forward_keeps_gate_and_up_alone():
    mlp = gated(torch.float32, nn.SiLU())
    own = {parameter.data_ptr() for parameter in mlp.parameters()}
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        feed_forward(mlp, random(5, 8).requires_grad_())
    assert sorted(tensor.shape for tensor in kept if tensor.data_ptr() not in own) == [(5, 12), (5, 12)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", [RotaryPositionalEmbeddings, Llama3ScaledRoPE, Qwen2RotaryPositionalEmbeddings])
def test_rotation_equals_the_modules_own(kind, dtype):
    rotation = kind(8, max_seq_len=64)
    positions = torch.tensor([[3, 0, 60], [1, 2, 2]])
    table = rotation_table(rotation, positions)
    assert (table is None) == (kind is Qwen2RotaryPositionalEmbeddings)
    both(
        lambda heads: rotate(rotation, heads, table, positions),
        lambda heads: rotation(heads, input_pos=positions),
        random(2, 3, 4, 8).to(dtype),
    )


def test_a_rotation_off_the_cpu_is_one_product_and_two_conversions():
    rotation = RotaryPositionalEmbeddings(8, max_seq_len=64)
    table = rotation_table(rotation, torch.zeros(2, 3, dtype=torch.int64)).to("meta")
    launched = []

    class Noted(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            if not function.is_view:
                launched.append(function.name())
            return function(*args, **kwargs or {})

    heads = torch.zeros(2, 3, 4, 8, dtype=torch.bfloat16, device="meta")
    with torch.no_grad(), Noted():
        rotate(rotation, heads, table, None)
    assert launched == ["aten::_to_copy", "aten::mul.Tensor", "aten::_to_copy"]


def test_without_a_rotation_heads_stay():
    heads = random(1, 2, 1, 4)
    assert rotate(None, heads, rotation_table(None, torch.zeros(1, 2)), torch.zeros(1, 2)) is heads
