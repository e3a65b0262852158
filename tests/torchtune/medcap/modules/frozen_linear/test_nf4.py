import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit
from torch import nn

from medcap.modules.frozen_linear import nf4
from medcap.modules.frozen_linear.nf4 import Nf4Linear


def test_numbers_are_those_of_bitsandbytes() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(128, 24, bias=False)
    packed, state = quantize_4bit(linear.weight.detach(), blocksize=64, compress_statistics=True, quant_type="nf4")
    frozen = Nf4Linear(linear)
    assert torch.equal(frozen.quantised, packed)
    assert torch.equal(frozen.decoded(torch.float32), dequantize_4bit(packed, state))


def test_a_block_may_begin_within_a_row() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(96, 4, bias=False)
    nn.init.normal_(linear.weight)
    with torch.no_grad():
        linear.weight.view(-1)[64:128] *= 1000
    blocks = Nf4Linear(linear).decoded(torch.float32).reshape(6, 64)
    expected = linear.weight.detach().reshape(6, 64)
    # Double quantisation leaves the small blocks' maxima only a step of the largest one's scale.
    assert ((blocks - expected).norm(dim=1)[1] / expected.norm(dim=1)[1]) < 0.12


def test_levels_of_normal_float_times_a_block_maximum_are_kept_up_to_the_maximum() -> None:
    levels = torch.tensor([-1.0, -0.6961928, -0.5250731, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0])
    positive = torch.tensor([0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0])
    linear = nn.Linear(64, 8, bias=False)
    # Equal block maxima: their mean is kept in fp32, what is left to quantise is zero.
    linear.weight = nn.Parameter(torch.cat([levels, positive]).repeat(8, 4) * 0.75)
    torch.testing.assert_close(Nf4Linear(linear).decoded(torch.float32), linear.weight.detach(), rtol=1e-6, atol=1e-7)


def test_the_kernel_that_reads_the_packed_numbers_is_given_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its version for the CPU decodes them: the same arguments give the same product."""
    torch.manual_seed(0)
    frozen, rows = Nf4Linear(nn.Linear(128, 24)), torch.randn(3, 128)
    expected = rows @ frozen.decoded(torch.float32).T
    monkeypatch.setattr(nf4, "_has_kernel", lambda *_: True)
    torch.testing.assert_close(frozen.product(rows), expected)


@pytest.mark.parametrize(
    ("device", "rows", "in_features", "requires_grad", "expected"),
    [
        ("cuda", 1, 128, False, True),
        ("cuda", 1, 128, True, False),
        ("cuda", 0, 128, False, False),
        ("cuda", 1, 96, False, False),
        ("cpu", 1, 128, False, False),
    ],
)
def test_only_a_gpu_has_that_kernel_and_only_for_whole_blocks(
    device: str, rows: int, in_features: int, requires_grad: bool, expected: bool
) -> None:
    class Rows:
        def __len__(self) -> int:
            return rows

    shown = Rows()
    shown.device, shown.requires_grad = torch.device(device), requires_grad
    assert nf4._has_kernel(shown, in_features) is expected
