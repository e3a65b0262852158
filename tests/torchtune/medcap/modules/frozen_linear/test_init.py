from __future__ import annotations

import pytest
import torch
from torch import nn
from torchtune.models.llama3_1 import llama3_1
from torchtune.models.qwen2 import qwen2

from medcap.errors import UserError
from medcap.modules.frozen_functions import rotation_table
from medcap.modules.frozen_layer import freeze_layers
from medcap.modules.frozen_linear import (
    LLM_WEIGHTS,
    FrozenLinear,
    check_device,
    check_layers,
    count_parameters,
    quantise_layer,
    quantised_bytes,
    weights_of,
)
from medcap.training.distributed.memory import saved_bytes

SHAPE = {
    "vocab_size": 50,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 32,
    "intermediate_dim": 80,
    "max_seq_len": 64,
}
LINEARS = {f"attn.{name}" for name in ("q_proj", "k_proj", "v_proj", "output_proj")} | {"mlp.w1", "mlp.w2", "mlp.w3"}


@pytest.mark.parametrize("builder", [llama3_1, qwen2])
@pytest.mark.parametrize("llm_weights", ["fp8", "int8", "nf4"])
def test_all_linear_maps_of_a_layer_and_nothing_else_are_quantised(builder, llm_weights: str) -> None:
    decoder = builder(**SHAPE).requires_grad_(False).bfloat16()
    before = {name: tensor for name, tensor in decoder.named_parameters() if tensor.ndim == 1 or "layers" not in name}
    numbers, layer = count_parameters(decoder), decoder.layers[0]
    expected_bytes = quantised_bytes(layer, torch.bfloat16, llm_weights)
    for each in decoder.layers:
        quantise_layer(each, llm_weights)
    assert {name for name, part in layer.named_modules() if isinstance(part, FrozenLinear)} == LINEARS
    assert not [part for part in layer.modules() if isinstance(part, nn.Linear)]
    after = dict(decoder.named_parameters())
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert weights_of(decoder) == llm_weights
    assert count_parameters(decoder) == numbers
    buffers = [tensor for part in layer.modules() if isinstance(part, FrozenLinear) for tensor in part.buffers()]
    assert expected_bytes == sum(tensor.nbytes for tensor in (*layer.parameters(), *buffers))
    assert next(decoder.parameters()).dtype == torch.bfloat16


def test_bf16_changes_nothing() -> None:
    decoder = llama3_1(**SHAPE)
    parts = [id(part) for part in decoder.modules()]
    check_layers(decoder.layers, "bf16")
    quantise_layer(decoder.layers[0], "bf16")
    assert [id(part) for part in decoder.modules()] == parts
    assert weights_of(decoder) == "bf16"
    assert quantised_bytes(decoder.layers[0], torch.bfloat16, "bf16") == 2 * count_parameters(decoder.layers[0])


def test_a_shape_without_whole_blocks_is_refused_by_name() -> None:
    layers = nn.ModuleList([nn.ModuleDict({"w1": nn.Linear(32, 3)})])
    for llm_weights in ("bf16", "fp8", "int8"):
        check_layers(layers, llm_weights)
    with pytest.raises(UserError) as error:
        check_layers(layers, "nf4")
    assert str(error.value) == (
        "llm_weights=nf4 cannot hold layers.0.w1: its 3 x 32 numbers cannot be divided into blocks of 64; use"
        " llm_weights=int8"
    )


@pytest.mark.parametrize(("capability", "refused"), [((8, 0), True), ((8, 6), True), ((8, 9), False), ((9, 0), False)])
def test_fp8_is_refused_on_a_gpu_without_its_products(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], refused: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    gpu = torch.device("cuda", 0)
    for llm_weights in ("bf16", "int8", "nf4"):
        check_device(llm_weights, gpu)
    check_device("fp8", torch.device("cpu"))
    if not refused:
        check_device("fp8", gpu)
        return
    with pytest.raises(UserError) as error:
        check_device("fp8", gpu)
    assert str(error.value) == (
        "llm_weights=fp8 needs an NVIDIA GPU of compute capability 8.9 or later, this is Some GPU"
        f" ({capability[0]}.{capability[1]}): use llm_weights=int8 or llm_weights=nf4"
    )


@pytest.mark.parametrize("llm_weights", LLM_WEIGHTS)
def test_a_compiled_layer_keeps_no_converted_weight_for_its_backward_pass(llm_weights):
    decoder = llama3_1(64, 1, 4, 2, embed_dim=128, max_seq_len=32, intermediate_dim=448).to(torch.bfloat16)
    decoder.requires_grad_(False)
    for module in decoder.modules():
        if hasattr(module, "rope_init"):
            module.rope_init()
    freeze_layers(decoder)
    (layer,) = decoder.layers
    weights = 2 * sum(parameter.numel() for parameter in layer.parameters() if parameter.ndim == 2)
    quantise_layer(layer, llm_weights)
    states = torch.randn(1, 16, 128, dtype=torch.bfloat16, requires_grad=True)
    positions = torch.arange(16)[None]
    options = {"table": rotation_table(layer.attn.pos_embeddings, positions), "input_pos": positions}
    options["mask"] = torch.zeros(1, 16, 16, dtype=torch.bfloat16)

    def run():
        return layer(states, training_pass=True, **options)

    plain = saved_bytes(run, layer)
    expected = torch.autograd.grad(run().float().square().sum(), states)[0]
    try:
        # Inductor's division into the two passes, without its kernels.
        layer.compile(dynamic=False, backend="aot_eager_decomp_partition")
        run().sum().backward()
        assert saved_bytes(run, layer) <= 1.05 * plain < weights
        torch.testing.assert_close(torch.autograd.grad(run().float().square().sum(), states)[0], expected)
    finally:
        torch._dynamo.reset()
