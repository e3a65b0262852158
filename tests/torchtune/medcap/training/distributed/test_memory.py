"""The memory of a step: the formulas against what autograd keeps, and the sums against counts by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchtune.models.llama3_1 import llama3_1
from torchtune.modules import TransformerDecoder

from helpers.transformers_families import family_config, load_family, write_family
from medcap.checkpoints.llm_architecture import build_decoder, describe
from medcap.models.projectors.base import build_projector
from medcap.models.towers.registry import build_tower, resolve_tower
from medcap.modules.frozen_functions import rotation_table
from medcap.modules.frozen_layer import freeze_layers
from medcap.modules.frozen_linear import quantise_layer
from medcap.training.distributed.context import DistributedContext, single_world
from medcap.training.distributed.memory import (
    MemoryEstimate,
    _available_memory,
    device_memory,
    estimate,
    layer_activations,
    saved_bytes,
    vision_activations,
)

SHAPE = {
    "vocab_size": 50,
    "num_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 2,
    "embed_dim": 32,
    "intermediate_dim": 80,
    "max_seq_len": 64,
}
LLAMA = {"_component_": "torchtune.models.llama3_1.llama3_1", **SHAPE}


def _decoder(dtype: torch.dtype) -> TransformerDecoder:
    torch.manual_seed(0)
    decoder = llama3_1(**SHAPE).to(dtype).requires_grad_(False).eval()
    decoder.layers[0].attn.pos_embeddings.rope_init()  # fp32 in use, too
    return decoder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "length"), [(1, 24), (3, 17)])
def test_formula_is_what_autograd_keeps_of_a_layer(dtype: torch.dtype, rows: int, length: int) -> None:
    decoder = _decoder(dtype)
    freeze_layers(decoder)
    layer = decoder.layers[0]
    positions = torch.arange(length).repeat(rows, 1)
    table = rotation_table(layer.attn.pos_embeddings, positions)

    def run() -> Tensor:
        # Not a leaf and twice as large: only what the layer itself refers to is counted.
        states = torch.randn(rows, length, 32, dtype=dtype, requires_grad=True) * 1
        return layer(states, input_pos=positions, table=table, training_pass=True)

    kept = saved_bytes(run, decoder) - table.nbytes
    formula = layer_activations(describe(decoder), dtype, rows * length)
    # Kernels keep a few numbers a token of their own.
    assert formula <= kept <= 1.02 * formula + 8 * rows * length


def test_saved_bytes_counts_a_memory_once_and_no_weights() -> None:
    linear = nn.Linear(8, 8)

    def run() -> Tensor:
        hidden = torch.relu(linear(torch.ones(4, 8)))  # keeps the input [4, 8] and the result [4, 8]
        return hidden[:2] * hidden[2:]  # two views of the result

    assert saved_bytes(run, linear) == 2 * 4 * 8 * 4
    with torch.device("meta"):
        twin = nn.Linear(8, 8)
        # The inputs of the linear map and of the activation.
        assert saved_bytes(lambda: nn.functional.gelu(twin(torch.ones(4, 8))), twin) == 2 * 4 * 8 * 4


@pytest.mark.slow
@pytest.mark.slow
def test_experts_of_a_layer_of_transformers_count_no_copies_of_their_weights(tmp_path: Path) -> None:
    write_family(tmp_path, "gpt_oss")
    decoder = load_family(tmp_path)
    positions = torch.arange(16)[None]
    real = saved_bytes(lambda: decoder.run(torch.randn(1, 16, 32).requires_grad_() * 1, None, positions), decoder)
    on_meta = build_decoder({"_component_": "medcap.models.transformers_decoder", "path": str(tmp_path)})
    counted = estimate(on_meta, torch.float32, 1, 16, 0).activations
    assert real <= counted <= 2 * real


def test_vision_side_is_measured_on_the_meta_device() -> None:
    source = resolve_tower({"name": "timm:vit_tiny_patch16_224", "pretrained": False})
    with torch.device("meta"):
        tower = build_tower(source.spec, source.preprocess)
        projector = build_projector({"_component_": "medcap.models.mlp"}, tower.shape, 32)
    found = vision_activations(tower, projector, torch.float32)
    # 12 blocks, 197 tokens, width 192: 17 to 30 numbers of that width a token; 3 heads keep 197 x 197 probabilities
    assert 12 * 197 * 192 * 4 * 17 < found < 12 * 4 * (197 * 192 * 30 + 2 * 3 * 197 * 197)
    assert vision_activations(tower, projector, torch.bfloat16) == found // 2
    tower.requires_grad_(False)
    assert vision_activations(tower, projector, torch.float32) < found / 50


def test_parts_of_an_estimate_are_those_counted_by_hand() -> None:
    found = estimate(build_decoder(LLAMA), torch.bfloat16, 2, 16, 1000, other_activations=7, optimizer_shards=3)
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 80 + 2 * 32  # q and output, k and v, feed-forward, norms
    assert found.layers == 2 * 2 * layer
    assert found.largest_layer == 2 * layer
    assert found.other_frozen == 2 * (2 * 50 * 32 + 32)
    assert found.trained == 1000 * (4 + 4 + 2)
    assert found.optimizer == 2667
    # norms 2 * (2 * 32 + 4), attention 2 * 8 * 2 * (4 + 2) + 4 * 4, feed-forward 2 * 2 * 80: 664 a token and layer;
    # a rotary table of 4 * 8
    assert found.activations == 2 * 32 * 664 + 32 * 32 + 7
    assert found.loss == 32 * 50 * 8


@pytest.mark.slow
@pytest.mark.parametrize(("llm_weights", "linear_bytes"), [("fp8", 1.0), ("int8", 1.0), ("nf4", 0.515625)])
def test_low_precision_counts_the_bytes_of_the_layers_linear_maps(llm_weights: str, linear_bytes: float) -> None:
    plain = estimate(build_decoder(LLAMA), torch.bfloat16, 2, 16, 0)
    found = estimate(build_decoder(LLAMA), torch.bfloat16, 2, 16, 0, llm_weights=llm_weights)
    linears = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 80
    outputs = 32 + 32 + 16 + 16 + 80 + 80 + 32
    # a scale for each row; for nf4's seven maps a scale for 256 block maxima, their mean and the 256 levels
    scales = 4 * (7 * 258 if llm_weights == "nf4" else outputs)
    assert found.largest_layer == linears * linear_bytes + scales + 2 * 2 * 32
    assert found.layers == 2 * found.largest_layer
    assert found.other_frozen == plain.other_frozen
    assert (found.activations, found.loss) == (plain.activations, plain.loss)


@pytest.mark.parametrize("llm_weights", ["fp8", "int8", "nf4"])
def test_low_precision_layer_keeps_no_more_than_a_plain_one(llm_weights: str) -> None:
    plain, decoder = _decoder(torch.bfloat16), _decoder(torch.bfloat16)
    quantise_layer(decoder.layers[0], llm_weights)
    positions = torch.arange(17).repeat(3, 1)

    def run(layer: nn.Module) -> Tensor:
        states = torch.randn(3, 17, 32, dtype=torch.bfloat16, requires_grad=True) * 1
        return layer(states, input_pos=positions)

    expected = saved_bytes(lambda: run(plain.layers[0]), plain)
    assert saved_bytes(lambda: run(decoder.layers[0]), decoder) == expected


def test_checkpointing_keeps_the_inputs_and_one_layer() -> None:
    decoder = build_decoder({**LLAMA, "num_layers": 10})
    whole = estimate(decoder, torch.bfloat16, 1, 32, 0)
    again = estimate(decoder, torch.bfloat16, 1, 32, 0, checkpointed_layers=10)
    some = estimate(decoder, torch.bfloat16, 1, 32, 0, checkpointed_layers=4, full_mask=True)
    table = 32 * 32
    assert whole.activations == 10 * 32 * 664 + table
    assert again.activations == 10 * 32 * 32 * 2 + 32 * 664 + table
    assert some.activations == (6 + 1) * 32 * 664 + 4 * 32 * 32 * 2 + table + 2 * 32 * 32
    assert estimate(decoder, torch.bfloat16, 1, 32, 0, loss_chunk_size=8).loss == 8 * 50 * 8


def test_division_leaves_a_share_and_two_layers_on_each_device() -> None:
    parts = MemoryEstimate(800, 100, 50, trained=10, optimizer=4, activations=30, loss=6)
    assert [parts.frozen(), parts.frozen(8), parts.frozen(8, cpu_offload=True)] == [850, 350, 250]
    assert [parts.total(), parts.total(8), parts.total(8, cpu_offload=True)] == [900, 400, 300]


def test_llama_3_1_8b_takes_what_is_known_of_it() -> None:
    decoder = build_decoder({"_component_": "torchtune.models.llama3_1.llama3_1_8b"})
    found = estimate(decoder, torch.bfloat16, 1, 4096, 0)
    assert found.frozen() == 2 * 8_030_261_248
    # 2 * (2 * 4096 + 4) + 2 * 128 * 2 * (32 + 8) + 4 * 32 + 2 * 2 * 14336 bytes a token and layer
    assert found.activations == 32 * 4096 * 94_344 + 4096 * 4 * 128


def test_processes_of_a_node_share_the_memory_of_its_cpu() -> None:
    cpu = torch.device("cpu")
    whole = device_memory(cpu, single_world(cpu))
    share = device_memory(cpu, DistributedContext(0, 8, 0, 4, cpu))
    assert 2**20 < whole < 2**50
    assert share == pytest.approx(whole / 4, rel=0.2)


def test_container_may_take_less_than_the_machine_has(tmp_path: Path) -> None:
    meminfo, group = tmp_path / "meminfo", tmp_path / "group"
    meminfo.write_text("MemTotal:       9000 kB\nMemAvailable:   5000 kB\n")
    group.mkdir()
    assert _available_memory(meminfo, group) == 5000 * 1024
    (group / "memory.current").write_text("1000000\n")
    (group / "memory.max").write_text("max\n")
    assert _available_memory(meminfo, group) == 5000 * 1024
    (group / "memory.max").write_text("3000000\n")
    assert _available_memory(meminfo, group) == 2_000_000


def test_a_layer_of_transformers_keeps_two_to_three_times_as_much(tmp_path):
    # The shape of a layer of Llama 3.1 8B.
    heads = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128}
    family_config("llama", hidden_size=4096, intermediate_size=14336, **heads).save_pretrained(tmp_path)
    decoder = build_decoder({"_component_": "medcap.models.transformers_decoder", "path": str(tmp_path)})
    formula = layer_activations(describe(decoder), torch.bfloat16, 2 * 16)
    found = estimate(decoder, torch.bfloat16, 2, 16, 0, other_activations=7).activations
    tables = 2 * 16 * 4 * 128
    assert 2 < (found - tables - 7) / (2 * formula) < 3
    assert {part.dtype for part in decoder.parameters()} == {torch.bfloat16}
