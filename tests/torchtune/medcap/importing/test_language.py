import json

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from helpers.chat_template_folders import chat_template_folder
from medcap.checkpoints.frozen_llm import plan_llm
from medcap.errors import UserError
from medcap.importing.language import (
    SourceTensors,
    complete_config,
    llm_component,
    named_language,
    tokenizer_component,
)

SMALL = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("config", "model", "builder"),
    [
        (LlamaConfig(**SMALL, vocab_size=90), LlamaForCausalLM, "llama2.llama2"),
        (LlamaConfig(**SMALL, vocab_size=128_256, rope_theta=500_000.0), LlamaForCausalLM, "llama3.llama3"),
        (
            LlamaConfig(**SMALL, vocab_size=128_256, rope_parameters=LLAMA3_ROPE, max_position_embeddings=131_072),
            LlamaForCausalLM,
            "llama3_1.llama3_1",
        ),
        (MistralConfig(**SMALL, vocab_size=90, head_dim=8), MistralForCausalLM, "mistral.mistral"),
    ],
)
def test_the_builder_makes_the_model_that_the_config_describes(tmp_path, config, model, builder):
    torch.manual_seed(0)
    theirs = model(config).eval()
    theirs.save_pretrained(tmp_path)
    llm = llm_component(complete_config(config.to_dict(), tmp_path), tmp_path)
    assert llm["_component_"] == f"torchtune.models.{builder}"
    ours = plan_llm({**llm, "max_seq_len": 256}, tmp_path).load("cpu", torch.float32)
    tokens = torch.randint(90, (1, 20))
    with torch.no_grad():
        assert (ours(tokens) - theirs(tokens).logits).abs().max() < 1e-4


def test_few_positions_are_no_reason_for_a_warning(tmp_path, caplog):
    small = {"model_type": "llama", **SMALL, "vocab_size": 90, "max_position_embeddings": 512}
    config = complete_config({**small, "rope_scaling": LLAMA3_ROPE}, tmp_path)
    assert config["max_position_embeddings"] == 512
    assert config["rope_parameters"] == LLAMA3_ROPE
    assert caplog.messages == []
    # What transformers says of other values is still said.
    with caplog.at_level("WARNING", "transformers"):  # an earlier test may have silenced it
        complete_config({**small, "rope_scaling": {**LLAMA3_ROPE, "high_freq_factor": 0.5}}, tmp_path)
    assert len(caplog.messages) == 1
    assert "high_freq_factor field must be greater than low_freq_factor" in caplog.messages[0]


def test_defaults_of_a_7b_model_are_filled_in(tmp_path):
    # llava-1.5-7b-hf says no more than this of its language model.
    config = complete_config(
        {"model_type": "llama", "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "vocab_size": 32064}, tmp_path
    )
    assert llm_component(config, tmp_path) == {
        "_component_": "torchtune.models.llama2.llama2",
        "vocab_size": 32064,
        "num_layers": 32,
        "num_heads": 32,
        "num_kv_heads": 32,
        "embed_dim": 4096,
        "intermediate_dim": 11008,
        "max_seq_len": 4096,
        "norm_eps": 1e-5,
        "rope_base": 10000,
    }


def test_a_sliding_window_bounds_the_length(tmp_path):
    config = complete_config({"model_type": "mistral", **SMALL, "head_dim": 8, "sliding_window": 64}, tmp_path)
    assert llm_component(config, tmp_path)["max_seq_len"] == 64


def test_a_folder_with_its_own_tokenizer_and_chat_template_keeps_them(tmp_path):
    chat_template_folder("mistral", tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mistral", **SMALL, "head_dim": 8}))
    assert named_language(tmp_path, None).tokenizer == {
        "_component_": "medcap.models.transformers_tokenizer",
        "path": "tokenizer.json",
    }
    (tmp_path / "chat_template.jinja").unlink()
    assert named_language(tmp_path, None).tokenizer == {}


def test_the_tokenizer_goes_by_the_file(tmp_path):
    assert tokenizer_component(tmp_path, "llama", None) == {}
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    llama, mistral = (tokenizer_component(tmp_path, family, None) for family in ("llama", "mistral"))
    assert llama == {"_component_": "torchtune.models.llama2.llama2_tokenizer", "path": "tokenizer.model"}
    assert mistral["_component_"] == "torchtune.models.mistral.mistral_tokenizer"
    named = tmp_path / "llama3.model"
    named.write_text("IQ== 0\nIg== 1\n")
    assert tokenizer_component(tmp_path, "llama", named) == {
        "_component_": "medcap.models.llama3_tokenizer",
        "path": str(named),
    }
    with pytest.raises(UserError, match=r"--tokenizer .*nowhere: no such file"):
        tokenizer_component(tmp_path, "llama", tmp_path / "nowhere")


def test_pickled_weights_are_reported_in_one_line(tmp_path):
    (tmp_path / "pytorch_model-00001-of-00002.bin").touch()
    with pytest.raises(UserError, match=r"pytorch_model\*.bin files cannot be used \(medcap import reads safetensors"):
        SourceTensors(tmp_path)
