import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from medcap.modules.attention_mask import packed_attention_mask
from medcap.modules.ragged_attention import RaggedAttention

#                          a branched document      a plain one  one token  branched, no prefix left out
DOCUMENT = torch.tensor([0] * 9 + [1] * 4 + [2] + [5] * 5)
BRANCH = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3, 3] + [0] * 4 + [0] + [0, 1, 1, 2, 2])
AFTER = torch.tensor([1] * 9 + [0] * 4 + [1] + [0] * 5)
PLACES = torch.tensor([2, 4, 5, 8, 12, 18])
PROMPT_PREFIX = 3


def plain(query, key, value, prompt_prefix, output_positions=None):
    after = AFTER if prompt_prefix is not None else torch.zeros_like(AFTER)
    mask = packed_attention_mask(DOCUMENT[None], BRANCH[None], after[None], PROMPT_PREFIX if prompt_prefix else 0)[0]
    if prompt_prefix is not None:
        key, value = torch.cat([prompt_prefix[0], key]), torch.cat([prompt_prefix[1], value])
    repeat = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(repeat, 1), value.repeat_interleave(repeat, 1)
    if output_positions is not None:
        mask = mask[output_positions]
    heads = [tensor.transpose(0, 1)[None] for tensor in (query, key, value)]
    return scaled_dot_product_attention(*heads, attn_mask=mask)[0].transpose(0, 1)


@pytest.mark.parametrize("output_positions", [None, PLACES, PLACES[:0]], ids=["all", "some", "none"])
@pytest.mark.parametrize("with_prompt_prefix", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_equals_attention_under_the_whole_mask(kv_heads, with_prompt_prefix, output_positions):
    generator = torch.Generator().manual_seed(0)
    queries = len(DOCUMENT) if output_positions is None else len(output_positions)
    shapes = [(queries, 4, 8), (len(DOCUMENT), kv_heads, 8), (len(DOCUMENT), kv_heads, 8)]
    prompt_prefix = None
    if with_prompt_prefix:
        prompt_prefix = tuple(torch.randn(PROMPT_PREFIX, kv_heads, 8, generator=generator) for _ in range(2))
    inputs = [torch.randn(shape, generator=generator) for shape in shapes]
    ragged = RaggedAttention(
        DOCUMENT,
        BRANCH,
        AFTER > 0,
        PROMPT_PREFIX if with_prompt_prefix else 0,
        PLACES if output_positions is None else output_positions,
        torch.float32,
    )
    results = []
    for attend in (
        lambda *heads: ragged.attend(*heads, prompt_prefix, last=output_positions is not None),
        lambda *heads: plain(*heads, prompt_prefix, output_positions),
    ):
        own = [tensor.clone().requires_grad_() for tensor in inputs]
        output = attend(*own)
        (output * torch.linspace(0, 1, output.numel()).view_as(output)).sum().backward()
        gradients = [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in own]
        results.append([output.detach(), *gradients])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_no_score_crosses_a_document():
    ragged = RaggedAttention(DOCUMENT, BRANCH, AFTER > 0, 0, PLACES, torch.float32)
    scores = sum(piece.mask.numel() for piece in ragged._pieces)
    # Prefix by prefix, branches by document: 3 x 3 + 6 x 9, 4 x 4, 1, 1 + 4 x 5; a whole mask has 19 x 19.
    assert scores == 9 + 54 + 16 + 1 + 1 + 20
