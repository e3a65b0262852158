import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from medcap.modules import fused_attention
from medcap.modules.attention_mask import added_mask
from medcap.modules.fused_attention import causal_attention, for_all_heads, masked_attention


def heads(num_keys=7, device="cpu", dtype=torch.float32):
    source = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 5, 8), (2, 2, num_keys, 8), (2, 2, num_keys, 8)]
    tensors = [torch.randn(shape, generator=source).to(device, dtype).requires_grad_() for shape in shapes]
    return tensors


def output_and_gradients(attention, tensors):
    output = attention(*tensors)
    weights = torch.linspace(-1, 1, output.numel()).view_as(output)
    return output.detach(), *torch.autograd.grad((output * weights).sum(), tensors)


@pytest.mark.parametrize("before", [0, 2])
def test_causal_attention_after_a_prefix_is_attention_under_the_mask(before):
    mask = torch.ones(5, before + 5, dtype=torch.bool).tril(before)
    added = added_mask(mask, torch.float32).expand(2, 1, -1, -1)
    tensors = heads(before + 5)
    expected = output_and_gradients(lambda *parts: masked_attention(*parts, added), tensors)
    for own, wanted in zip(output_and_gradients(causal_attention, tensors), expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-6)


def test_repeated_heads_attend_as_grouped_ones():
    added = added_mask(torch.ones(5, 7, dtype=torch.bool).tril(2), torch.float32).expand(2, 1, -1, -1)

    def repeated(query, key, value):
        return scaled_dot_product_attention(query, for_all_heads(key, 4), for_all_heads(value, 4), attn_mask=added)

    expected = output_and_gradients(lambda *parts: masked_attention(*parts, added), heads())
    for own, wanted in zip(output_and_gradients(repeated, heads()), expected, strict=True):
        torch.testing.assert_close(own, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("masked", "dtype", "grouped"),
    [
        (True, torch.bfloat16, False),
        (True, torch.float32, False),
        (False, torch.bfloat16, True),
        (False, torch.float32, False),
    ],
)
def test_off_the_cpu_attention_asks_only_for_what_a_fused_kernel_takes(monkeypatch, masked, dtype, grouped):
    asked = []

    def note(query, key, value, **options):
        asked.append((options["enable_gqa"], key.shape[1]))
        return scaled_dot_product_attention(query, key, value, **options)

    monkeypatch.setattr(fused_attention, "scaled_dot_product_attention", note)
    query, key, value = heads(device="meta", dtype=dtype)
    if masked:
        masked_attention(query, key, value, torch.zeros(2, 1, 5, 7, dtype=dtype, device="meta"))
    else:
        causal_attention(query, key, value)
    assert asked == [(grouped, 2 if grouped else 4)]


def test_a_mask_off_the_cpu_begins_its_rows_at_multiples_of_eight():
    mask = torch.ones(2, 5, 13, dtype=torch.bool, device="meta")
    added = added_mask(mask, torch.bfloat16)
    assert added.shape == (2, 5, 13) and added.stride() == (80, 16, 1)
    assert added_mask(mask.new_ones(2, 5, 13, device="cpu"), torch.bfloat16).stride() == (65, 13, 1)
