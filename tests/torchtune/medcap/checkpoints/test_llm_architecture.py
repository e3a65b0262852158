"""What a checkpoint says of itself is compared with the builder, in the words of transformers 4, 5 and Meta."""

from __future__ import annotations

from typing import Any

import pytest

from helpers.llm_checkpoints import tiny_llm
from medcap.checkpoints.llm_architecture import (
    DecoderShape,
    RopeScaling,
    build_decoder,
    component_of,
    config_mismatches,
    describe,
    params_mismatches,
)

LLAMA3_1_8B = DecoderShape(
    vocab_size=128_256,
    embed_dim=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    intermediate_dim=14_336,
    norm_eps=1e-5,
    rope_base=500_000.0,
    rope_scaling=RopeScaling(8.0, 1.0, 4.0, 8192),
    tied=False,
    max_seq_len=131_072,
)
SCALING = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
CONFIG = {
    "vocab_size": 128_256,
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14_336,
    "rms_norm_eps": 1e-05,
    "tie_word_embeddings": False,
}
VERSION_4 = {**CONFIG, "rope_theta": 500_000.0, "rope_scaling": {**SCALING, "rope_type": "llama3"}}
VERSION_5 = {**CONFIG, "rope_parameters": {**SCALING, "rope_type": "llama3", "rope_theta": 500_000.0}}
PARAMS = {"dim": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128_256, "norm_eps": 1e-05}
PARAMS |= {"rope_theta": 500_000.0, "use_scaled_rope": True, "multiple_of": 1024, "ffn_dim_multiplier": 1.3}


def test_llama3_1_8b_is_described_from_its_modules() -> None:
    decoder = build_decoder("torchtune.models.llama3_1.llama3_1_8b")
    assert describe(decoder) == LLAMA3_1_8B
    assert {parameter.device.type for parameter in decoder.parameters()} == {"meta"}


@pytest.mark.parametrize("config", [VERSION_4, VERSION_5, {}, {"hidden_size": 4096}])
def test_config_of_the_same_model_has_no_mismatch(config: dict[str, Any]) -> None:
    assert config_mismatches(LLAMA3_1_8B, config) == []


@pytest.mark.parametrize(
    ("change", "mismatch"),
    [
        ({"hidden_size": 2048}, "hidden_size 2048 (the builder: 4096)"),
        ({"head_dim": 64}, "head_dim 64 (the builder: 128)"),
        ({"rms_norm_eps": 1e-6}, "rms_norm_eps 1e-06 (the builder: 1e-05)"),
        ({"rope_theta": 10_000}, "rope_theta 10000 (the builder: 500000.0)"),
        ({"partial_rotary_factor": 0.75}, "partial_rotary_factor 0.75 (the builder: 1.0)"),
    ],
)
def test_each_difference_from_the_config_is_reported(change: dict[str, Any], mismatch: str) -> None:
    assert config_mismatches(LLAMA3_1_8B, {**VERSION_4, **change}) == [mismatch]


@pytest.mark.parametrize(
    ("scaling", "told"),
    [
        (None, "rope_scaling none (the builder: llama3 with factor 8,"),
        ({**SCALING, "rope_type": "llama3", "factor": 32.0}, "rope_scaling llama3 with factor 32,"),
        ({"type": "linear", "factor": 2.0}, "rope_scaling linear (the builder: llama3"),
    ],
)
def test_each_other_rope_scaling_is_reported(scaling: dict[str, Any] | None, told: str) -> None:
    (mismatch,) = config_mismatches(LLAMA3_1_8B, {**VERSION_4, "rope_scaling": scaling})
    assert mismatch.startswith(told)


def test_params_of_the_same_model_have_no_mismatch() -> None:
    assert params_mismatches(LLAMA3_1_8B, PARAMS) == []


def test_differences_from_params_are_reported() -> None:
    params = {**PARAMS, "n_heads": 64}
    del params["use_scaled_rope"]
    assert params_mismatches(LLAMA3_1_8B, params) == [
        "n_heads 64 (the builder: 32)",
        "use_scaled_rope False (the builder: True)",
    ]


def test_llm_key_is_a_node_or_a_name() -> None:
    assert component_of({"_component_": "a.b", "dim": 3}) == {"_component_": "a.b", "dim": 3}
    assert component_of("a.b") == {"_component_": "a.b"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "llama3.llama3_8b",
        "llama3_2.llama3_2_1b",
        "llama2.llama2_7b",
        "qwen2_5.qwen2_5_0_5b",
        "qwen2_5.qwen2_5_7b_instruct",
        "mistral.mistral_7b",
        "phi3.phi3_mini",
        "gemma.gemma_2b",
        "llama3_3.llama3_3_70b",
    ],
)
def test_named_builders_of_every_family_are_described(name: str) -> None:
    shape = describe(build_decoder(f"torchtune.models.{name}"))
    assert shape.head_dim in (64, 96, 128, 256)
    assert shape.tied == (name.split(".")[1] in ("llama3_2_1b", "qwen2_5_0_5b", "gemma_2b"))


def test_tiny_builder_is_described_with_its_arguments() -> None:
    shape = describe(build_decoder(tiny_llm("torchtune.models.llama3.llama3", rope_base=7)))
    assert (shape.rope_base, shape.rope_scaling, shape.num_layers, shape.head_dim) == (7.0, None, 2, 8)
