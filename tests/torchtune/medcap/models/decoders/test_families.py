"""Which models of transformers are taken, and how the others are refused."""

from __future__ import annotations

import json

import pytest
import torch

from helpers.transformers_families import family_config
from medcap.checkpoints.llm_architecture import build_decoder
from medcap.errors import UserError
from medcap.models.decoders.families import longest_sequence, read_config

COMMON = {"vocab_size": 30, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def write(folder, **content):
    (folder / "config.json").write_text(json.dumps(content))
    return str(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"model_type": "own", "auto_map": {"AutoModelForCausalLM": "modeling_own.OwnForCausalLM"}},
            "this model brings its own code (auto_map), which medcap never runs",
        ),
        ({"model_type": "own"}, "does not know model_type=own: install a newer transformers, or take another model"),
        ({}, "it names no model_type: copy or download it again"),
        ({"model_type": ["qwen3"]}, "it names no model_type"),
        ({"model_type": "vit"}, "model_type=vit has no causal language model in transformers"),
        ({"model_type": "mamba2", "time_step_limit": [0.0, {"__float__": "Infinity"}]}, "mamba2 has"),
        ({**COMMON, "model_type": "mamba"}, "mamba has layers of linear_attention, with which samples cannot share a"),
        ({**COMMON, "model_type": "llama4_text"}, "llama4_text has layers of chunked_attention"),
        ({**COMMON, "model_type": "gemma3_text", "use_bidirectional_attention": True}, "attention to later tokens"),
        ({**COMMON, "model_type": "qwen3_next"}, "qwen3_next has layers of linear_attention"),
        (
            {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4},
            "gpt2 has no model.layers and lm_head, which medcap runs: take",
        ),
        (
            {**COMMON, "model_type": "falcon"},
            "falcon cannot be built with medcap's attention (KeyError('medcap')); correct its",
        ),
        ({**COMMON, "model_type": "opt", "ffn_dim": 8}, "medcap cannot run the layers of opt"),
    ],
)
def test_what_cannot_be_taken_is_refused_by_name(tmp_path, content, message):
    folder = write(tmp_path, **content)
    with pytest.raises(UserError) as error:
        build_decoder({"_component_": "medcap.models.transformers_decoder", "path": folder})
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_folder_without_a_config_is_named(tmp_path):
    with pytest.raises(UserError, match=r"reads a model's config.json: .* does not exist"):
        read_config(str(tmp_path))


def test_of_several_modalities_the_text_part_is_taken(tmp_path):
    text = family_config("gemma3").to_dict()
    config = read_config(write(tmp_path, model_type="gemma3", text_config=text, vision_config={"hidden_size": 8}))
    assert (config.model_type, config.hidden_size, config.tie_word_embeddings) == ("gemma3_text", 32, True)


def test_rotary_angles_that_depend_on_the_batch_end_where_they_would_change():
    assert longest_sequence(family_config("phi3")) == 64
    assert longest_sequence(family_config("qwen3")) == 256


def test_nothing_is_computed_to_build_one(tmp_path):
    family_config("gpt_oss").save_pretrained(tmp_path)
    decoder = build_decoder({"_component_": "medcap.models.transformers_decoder", "path": str(tmp_path)})
    assert {tensor.device for tensor in (*decoder.parameters(), *decoder.buffers())} == {torch.device("meta")}
