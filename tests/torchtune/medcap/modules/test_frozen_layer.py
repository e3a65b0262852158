from types import SimpleNamespace

import pytest
import torch
from torch.nn.attention.flex_attention import flex_attention
from torchtune.modules import RMSNorm

from helpers.random_rows import random_rows
from helpers.tiny_generation import FAMILIES, tiny_decoder, tiny_generator
from medcap.generation.decoding.kv_cache import KVCache, attached
from medcap.modules import frozen_layer
from medcap.modules.attention_mask import added_mask, packed_attention_mask
from medcap.modules.flex_layout import flex_layout
from medcap.modules.flex_mask import flex_mask
from medcap.modules.frozen_functions import rotation_table
from medcap.modules.frozen_layer import FrozenLayer, can_freeze, freeze_layers, is_frozen

FREEZABLE = [family for family in FAMILIES if family != "gemma2"]
DOCUMENT = torch.tensor([[0, 0, 0, 1, 1, 1, 1, -1], [0, 0, 0, 0, 0, 0, 0, 0]])
BRANCH = torch.tensor([[0, 0, 0, 0, 1, 2, 2, 0], [0, 0, 1, 1, 2, 2, 3, 3]])
POSITIONS = torch.tensor([[0, 1, 2, 0, 1, 1, 2, 0], [0, 1, 2, 3, 2, 3, 2, 3]])
PLACES = torch.tensor([1, 4, 9, 15])


def states_and_gradient(layer, **options):
    states = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    output = layer(states, input_pos=POSITIONS, **options)
    output = output[0] if "output_positions" in options else output.flatten(0, 1)[PLACES]
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    return output.detach(), states.grad


@pytest.mark.parametrize("with_output_positions", [False, True])
@pytest.mark.parametrize("family", FREEZABLE)
def test_the_way_of_training_equals_torchtunes_layer(family, with_output_positions):
    layer = tiny_decoder(family).requires_grad_(False).layers[-1]
    mask = packed_attention_mask(DOCUMENT, BRANCH)
    expected = states_and_gradient(layer, mask=mask)
    frozen = FrozenLayer(layer)
    table = rotation_table(layer.attn.pos_embeddings, POSITIONS)
    options = {"output_positions": PLACES} if with_output_positions else {}
    found = states_and_gradient(frozen, mask=mask, table=table, training_pass=True, **options)
    for own, theirs in zip(found, expected, strict=True):
        # float32, added up in another order: how far the sums are apart depends on the processor's kernels.
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=3e-5)
    # Called as torchtune calls it, it is torchtune's.
    for own, theirs in zip(states_and_gradient(frozen, mask=mask), expected, strict=True):
        assert torch.equal(own, theirs)


def decoded(layer, num_steps=5):
    """Steps of three rows over a cache, each row at a position of its own, after a prefill of two tokens."""
    source = torch.Generator().manual_seed(0)
    cache = KVCache(3 * 8)
    outputs = []
    with torch.no_grad(), attached(layer, cache):
        cache.start(3, 8, torch.device("cpu"))
        rows = torch.arange(3)[:, None] * 8
        cache.fill((rows + torch.arange(2)).flatten(), torch.arange(6))
        causal = torch.ones(3, 2, 2, dtype=torch.bool).tril()
        layer(torch.randn(3, 2, 32, generator=source), mask=causal, input_pos=torch.arange(2).expand(3, 2))
        for step in range(num_steps):
            positions = torch.tensor([2, 1, 0]) + step
            mask = cache.step(positions, 3 + step)
            states = torch.randn(3, 1, 32, generator=source)
            outputs.append(layer(states, mask=mask, input_pos=positions[:, None]))
    return torch.stack(outputs)


@pytest.mark.parametrize("norms", [False, True])
@pytest.mark.parametrize("family", FREEZABLE)
def test_a_step_over_a_cache_equals_torchtunes_layer(family, norms):
    layer = tiny_decoder(family).requires_grad_(False).layers[-1]
    if norms:  # as Qwen 3 has them
        layer.attn.q_norm, layer.attn.k_norm = (RMSNorm(layer.attn.head_dim) for _ in range(2))
        layer.attn.q_norm.scale.data.copy_(torch.linspace(0.5, 2, layer.attn.head_dim))
    torch.testing.assert_close(decoded(FrozenLayer(layer)), decoded(layer), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FREEZABLE)
def test_places_of_a_prefill_are_those_of_the_whole_layer(family):
    layer = FrozenLayer(tiny_decoder(family).eval().layers[-1])
    states = torch.randn(2, 8, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 8, 8, dtype=torch.bool).tril()
    output_positions = torch.tensor([3, 0, 9, 15])
    seen = []
    layer.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
    with torch.no_grad():
        kept = layer(states, mask=mask, input_pos=POSITIONS, output_positions=output_positions)[0]
        whole = layer(states, mask=mask, input_pos=POSITIONS).flatten(0, 1)
    torch.testing.assert_close(kept, whole[output_positions], rtol=1e-5, atol=1e-5)
    assert seen == [torch.Size([1, 4, 32]), torch.Size([2, 8, 32])]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_gives_the_hidden_states_of_the_places(tmp_path, family):
    model = tiny_generator(tmp_path, family).model.eval()
    embeddings = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(1))
    positions, output_positions = torch.arange(6).expand(2, 6), torch.tensor([3, 0, 9, 11])
    for mask in (torch.ones(2, 6, 6, dtype=torch.bool).tril(), None):
        with torch.no_grad():
            whole = model.hidden(embeddings, mask, positions).flatten(0, 1)
            kept = model.hidden_at(embeddings, output_positions, mask, positions)
        torch.testing.assert_close(kept, whole[output_positions], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_and_their_names_stay(family):
    decoder = tiny_decoder(family)
    before = {name: tensor.clone() for name, tensor in decoder.state_dict().items()}
    freeze_layers(decoder)
    assert is_frozen(decoder) == (family != "gemma2")
    after = decoder.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


def test_a_layer_of_another_kind_is_left_alone():
    assert not can_freeze(tiny_decoder("gemma2").layers[0])
    assert not can_freeze(torch.nn.Linear(2, 2))
    layer = tiny_decoder().layers[0]
    assert can_freeze(layer)
    layer.attn.attn_dropout = 0.1
    assert not can_freeze(layer)


@pytest.mark.slow
def test_compiled_layers_do_not_compile_again_for_another_step():
    torch._dynamo.reset()
    decoder = tiny_decoder().requires_grad_(False)
    freeze_layers(decoder)
    layers = list(decoder.layers)
    for layer in layers:
        layer.compile(backend="aot_eager", fullgraph=True)
    torch._dynamo.utils.counters.clear()
    compiled = []
    for step in range(3):
        document = (torch.arange(16).view(2, 8) // (3 + step)).clamp(max=2)
        mask = packed_attention_mask(document, torch.zeros_like(document))
        positions = torch.arange(8).expand(2, 8)
        table = rotation_table(layers[0].attn.pos_embeddings, positions)
        states = torch.randn(2, 8, 32, requires_grad=True)
        for layer in layers:
            states = layer(states, mask=mask, input_pos=positions, table=table, training_pass=True)
        states.sum().backward()
        compiled.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    assert compiled[0] == compiled[1] == compiled[2]
    assert compiled[0] <= 2


@pytest.mark.parametrize("prefix", [0, 3])
def test_flex_attention_gives_what_the_mask_gives(monkeypatch, prefix):
    monkeypatch.setattr(frozen_layer, "_flex", lambda: flex_attention)  # as it is, without its compiler
    columns = random_rows(0, 2, 8)
    tensors = [torch.from_numpy(column) for column in columns]
    boolean = packed_attention_mask(*tensors, prompt_prefix_length=prefix)
    flex = flex_mask(torch.from_numpy(flex_layout(*columns, prefix)), 2, 8, prefix)
    source = torch.Generator().manual_seed(0)
    heads = [torch.randn(2, 8, count, 16, generator=source) for count in (4, 2, 2)]
    before = tuple(torch.randn(prefix, 2, 16, generator=source) for _ in range(2)) if prefix else None
    # Gradients are compared on a GPU: FlexAttention has none on the CPU.
    found, expected = (
        frozen_layer._attend(*heads, before, mask) for mask in (flex, added_mask(boolean, torch.float32))
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("head_width", "memory", "device", "small"),
    [
        (256, 101_376, "cuda", True),
        (256, 232_448, "cuda", False),
        (128, 101_376, "cuda", False),
        (256, 0, "cpu", False),
    ],
)
def test_flex_attention_takes_small_blocks_where_large_ones_do_not_fit(monkeypatch, head_width, memory, device, small):
    properties = SimpleNamespace(shared_memory_per_block_optin=memory)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    options = frozen_layer._flex_options(head_width, torch.device(device))
    assert (options is not None) == small
    if small:
        # What FlexAttention asks of them: its blocks of 128 are divisible, and so are its own two by each other.
        sizes = {name: value for name, value in options.items() if "BLOCK" in name}
        assert all(128 % size == 0 for size in sizes.values())
        assert sizes["bwd_BLOCK_N1"] % sizes["bwd_BLOCK_M1"] == 0 == sizes["bwd_BLOCK_M2"] % sizes["bwd_BLOCK_N2"]
