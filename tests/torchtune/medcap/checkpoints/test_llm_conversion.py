"""Every family: the decoder loaded from a folder that transformers wrote has the logits of transformers' own model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from helpers.llm_checkpoints import random_decoder, tiny_llm
from medcap.checkpoints.frozen_llm import plan_llm
from medcap.checkpoints.llm_architecture import build_decoder
from medcap.checkpoints.llm_conversion import concatenation_dim, conversion_for
from medcap.errors import UserError

TOKENS = torch.tensor([[1, 5, 9, 40, 77, 3, 90, 2], [7, 7, 8, 91, 0, 12, 50, 31]])
# Far apart: nearby positions hardly show which rotary frequencies are used.
POSITIONS = (torch.arange(8) * 1500).expand(2, 8)
PLAIN = {"rope_type": "default", "rope_theta": 10_000.0}
SCALED = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 500_000.0}
SCALED |= {"original_max_position_embeddings": 8192}

FAMILIES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {
    # name: transformers' class, torchtune's builder, what differs in the configuration, what differs in the builder
    "llama2": ("Llama", "llama2.llama2", {"rms_norm_eps": 1e-5, "num_key_value_heads": 4}, {"num_kv_heads": 4}),
    "llama3": ("Llama", "llama3.llama3", {"rms_norm_eps": 1e-5, "rope_parameters": {**PLAIN, "rope_theta": 5e5}}, {}),
    "llama3_1": (
        "Llama",
        "llama3_1.llama3_1",
        {"rms_norm_eps": 1e-5, "rope_parameters": {**SCALED, "factor": 8.0}},
        {},
    ),
    "llama3_2": (
        "Llama",
        "llama3_2.llama3_2",
        {"rms_norm_eps": 1e-5, "rope_parameters": {**SCALED, "factor": 32.0}, "tie_word_embeddings": True},
        {},
    ),
    "mistral": ("Mistral", "mistral.mistral", {"rms_norm_eps": 1e-5, "rope_parameters": PLAIN}, {}),
    "qwen2": (
        "Qwen2",
        "qwen2.qwen2",
        {"rms_norm_eps": 1e-6, "rope_parameters": {**PLAIN, "rope_theta": 1e6}},
        {"norm_eps": 1e-6},
    ),
    "qwen2_tied": (
        "Qwen2",
        "qwen2.qwen2",
        {"rms_norm_eps": 1e-6, "rope_parameters": {**PLAIN, "rope_theta": 1e6}, "tie_word_embeddings": True},
        {"norm_eps": 1e-6, "tie_word_embeddings": True},
    ),
    "phi3": ("Phi3", "phi3.phi3", {"rms_norm_eps": 1e-5, "pad_token_id": 0}, {}),
    "gemma": ("Gemma", "gemma.gemma", {"rms_norm_eps": 1e-6, "head_dim": 16}, {"head_dim": 16}),
}


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_logits_equal_those_of_transformers(tmp_path: Path, family: str) -> None:
    import transformers

    class_name, builder, in_config, in_builder = FAMILIES[family]
    common = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    common |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 16_384}
    config = getattr(transformers, class_name + "Config")(**common | in_config)
    torch.manual_seed(0)
    reference = getattr(transformers, class_name + "ForCausalLM")(config).eval()
    for name, parameter in reference.named_parameters():
        parameter.normal_(1 if "norm" in name and "Gemma" not in class_name else 0, 0.2)
    reference.save_pretrained(tmp_path, max_shard_size="20KB")

    llm = tiny_llm(f"torchtune.models.{builder}", vocab_size=96, max_seq_len=16_384, **in_builder)
    decoder = plan_llm(llm, tmp_path).load("cpu", torch.float32)
    for positions in (torch.arange(8).expand(2, 8), POSITIONS):
        logits = reference(TOKENS, attention_mask=torch.ones_like(TOKENS), position_ids=positions).logits
        torch.testing.assert_close(decoder(TOKENS, input_pos=positions), logits, rtol=0, atol=1e-4)


def test_gemma_2_is_refused(tmp_path: Path) -> None:
    decoder = build_decoder(tiny_llm("torchtune.models.gemma2.gemma2", head_dim=16))
    with pytest.raises(UserError, match="torchtune's Gemma 2 caps hidden states"):
        conversion_for(decoder, "hugging_face")


def test_unknown_rotary_positions_are_refused() -> None:
    decoder = random_decoder(tiny_llm())
    decoder.layers[0].attn.pos_embeddings = torch.nn.Identity()
    decoder.layers[0].attn.pos_embeddings.base = 1
    with pytest.raises(UserError, match="rotary positions of type Identity are not known"):
        conversion_for(decoder, "hugging_face")


@pytest.mark.parametrize("builder", ["llama3_1.llama3_1", "qwen2.qwen2", "phi3.phi3", "gemma.gemma", "llama2.llama2"])
def test_expected_tensors_come_back_one_at_a_time(builder: str) -> None:
    llm = tiny_llm(f"torchtune.models.{builder}", **({"head_dim": 16} if "gemma" in builder else {}))
    decoder = random_decoder(llm)
    conversion = conversion_for(decoder, "hugging_face")
    tensors = conversion.to_checkpoint(decoder.state_dict())
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == conversion.expected(build_decoder(llm))
    back: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        back |= conversion.to_decoder({name: tensor})
    assert back.keys() == decoder.state_dict().keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in decoder.state_dict().items())


@pytest.mark.parametrize(
    ("pieces", "expected", "dim"),
    [
        ([(4, 6)], (4, 6), None),
        ([(6,), (6,)], (6,), None),
        ([(2, 6), (2, 6)], (4, 6), 0),
        ([(4, 3), (4, 3)], (4, 6), 1),
    ],
)
def test_shapes_tell_how_pieces_are_joined(
    pieces: list[tuple[int, ...]], expected: tuple[int, ...], dim: int | None
) -> None:
    assert concatenation_dim(pieces, expected) == dim


@pytest.mark.parametrize("pieces", [[(4, 5)], [(2, 6)], [(2, 6), (3, 6)], [(4,), (6,)], [(2, 3), (2, 3)]])
def test_pieces_that_do_not_fit_are_reported(pieces: list[tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"has shape \[.*\], expected \[4, 6\]"):
        concatenation_dim(pieces, (4, 6))
