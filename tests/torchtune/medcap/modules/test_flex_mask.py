import numpy as np
import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

from helpers.packed_samples import PROMPT_PREFIX, SAMPLES, batch_of, tiny_images
from helpers.random_rows import random_rows
from medcap.modules.attention_mask import added_mask, packed_attention_mask
from medcap.modules.flex_layout import flex_layout, padded_prefix
from medcap.modules.flex_mask import flex_mask
from medcap.modules.fused_attention import masked_attention


def both(seed, rows, length, prefix):
    """The mask for FlexAttention, and the boolean one with the same keys."""
    document, branch, after = random_rows(seed, rows, length)
    tensors = [torch.from_numpy(column) for column in (document, branch, after)]
    boolean = packed_attention_mask(*tensors, prompt_prefix_length=prefix)
    layout = torch.from_numpy(flex_layout(document, branch, after, prefix))
    gap = torch.zeros(rows, length, padded_prefix(prefix) - prefix, dtype=torch.bool)
    return flex_mask(layout, rows, length, prefix), torch.cat([boolean[..., :prefix], gap, boolean[..., prefix:]], 2)


@pytest.mark.parametrize(("length", "prefix"), [(37, 0), (256, 0), (300, 5), (256, 130)])
@pytest.mark.parametrize("seed", range(5))
def test_pairs_and_blocks_are_those_of_the_boolean_mask(seed, length, prefix):
    mask, expected = both(seed, 3, length, prefix)
    keys = expected.shape[2]
    assert mask.seq_lengths == (length, keys)
    assert torch.equal(create_mask(mask.mask_mod, 3, None, length, keys, "cpu")[:, 0], expected)
    plain = create_block_mask(lambda row, _, query, key: expected[row, query, key], 3, None, length, keys, "cpu")
    for name in ("kv", "q"):
        for part in (f"{name}_num_blocks", f"{name}_indices", f"full_{name}_num_blocks", f"full_{name}_indices"):
            own, wanted = getattr(mask, part), getattr(plain, part)
            assert own.dtype == torch.int32 and torch.equal(own, wanted), part


@pytest.mark.parametrize("prefix", [0, 5])
def test_flex_attention_under_it_is_attention_under_the_boolean_mask(prefix):
    mask, boolean = both(0, 2, 40, prefix)
    source = torch.Generator().manual_seed(1)
    shapes = [(2, 4, 40, 16), *[(2, 2, boolean.shape[2], 16)] * 2]
    query, key, value = (torch.randn(shape, generator=source) for shape in shapes)
    expected = masked_attention(query, key, value, added_mask(boolean, torch.float32)[:, None])
    found = flex_attention(query, key, value, block_mask=mask, enable_gqa=True)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_batch_brings_it_along_with_its_rows():
    batch = batch_of(SAMPLES, tiny_images(), 24, prompt_prefix=PROMPT_PREFIX).with_rows(4).with_flex_layout()
    columns = [column.numpy() for column in (batch.document, batch.branch, batch.after_prompt_prefix)]
    assert np.array_equal(batch.flex_layout.numpy(), flex_layout(*columns, len(PROMPT_PREFIX)))
    assert batch.flex_layout.dtype == torch.int32
    moved = batch.in_one_buffer()
    assert torch.equal(moved.flex_layout, batch.flex_layout) and moved.with_flex_layout() is moved
    assert batch.with_rows(5).flex_layout is None and batch.without_padding().flex_layout is None
