"""Checkpoints of transformers' decoders: names, tied tables, low precision, mistakes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.transformers_families import load_family, write_family
from medcap.checkpoints.frozen_llm import plan_llm
from medcap.checkpoints.llm_fingerprint import llm_fingerprint
from medcap.errors import UserError

BUILDER = "medcap.models.transformers_decoder"
TOKENS = torch.tensor([[5, 9, 200, 31, 7, 8, 40, 41, 42]])


@pytest.fixture(scope="module")
def gemma(tmp_path_factory):
    """A Gemma 3 with tied tables, and its logits."""
    folder = tmp_path_factory.mktemp("gemma")
    with torch.no_grad():
        return folder, write_family(folder, "gemma3")(TOKENS).logits


def rewrite(folder, target, change, **config):
    """Copy a folder with other tensors and values of config.json."""
    target.mkdir()
    save_file(change(load_file(folder / "model.safetensors")), target / "model.safetensors", {"format": "pt"})
    content = json.loads((folder / "config.json").read_text())
    (target / "config.json").write_text(json.dumps(config or content))
    return target


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: f"language_model.{name}",  # transformers 4
        lambda name: name.replace("model.", "model.language_model.", 1),  # transformers 5
    ],
)
def test_the_text_part_of_a_model_of_several_modalities_is_found(gemma, tmp_path, rename):
    folder, logits = gemma
    text = json.loads((folder / "config.json").read_text())

    def within(tensors):
        return {rename(name): tensor for name, tensor in tensors.items()} | {"vision_tower.x": torch.zeros(2)}

    several = rewrite(folder, tmp_path / "llm", within, model_type="gemma3", text_config=text, vision_config={})
    assert plan_llm(BUILDER, several).tied
    with torch.no_grad():
        torch.testing.assert_close(load_family(several)(TOKENS), logits, rtol=1e-4, atol=1e-4)


def test_a_separate_head_is_used_where_the_files_have_one(gemma, tmp_path):
    folder, logits = gemma

    def doubled(tensors):
        return tensors | {"lm_head.weight": 2 * tensors["model.embed_tokens.weight"]}

    with torch.no_grad():
        found = load_family(rewrite(folder, tmp_path / "llm", doubled))(TOKENS)
    torch.testing.assert_close(found, 2 * logits, rtol=1e-4, atol=1e-4)


def test_missing_and_unexpected_tensors_are_named(gemma, tmp_path):
    def changed(tensors):
        tensors["model.layers.0.extra"] = tensors.pop("model.norm.weight")
        return tensors

    folder = rewrite(gemma[0], tmp_path / "llm", changed)
    with pytest.raises(UserError) as error:
        plan_llm(BUILDER, folder)
    assert "model.norm.weight is missing; model.safetensors: model.layers.0.extra is unexpected" in str(error.value)


def test_low_precision_stays_near(gemma):
    folder, logits = gemma
    with torch.no_grad():
        found = load_family(folder, llm_weights="int8")(TOKENS)
    assert 0 < float((found - logits).abs().mean() / logits.abs().mean()) < 0.05


def test_experts_in_four_bits_are_read_as_published(tmp_path):
    """gpt-oss: two numbers of four bits a byte, the lower half first; 32 share a power of two, whose bias is 127."""
    write_family(tmp_path / "plain", "gpt_oss", intermediate_size=64)
    generator = torch.Generator().manual_seed(0)
    name = "model.layers.1.mlp.experts.down_proj"

    def packed(tensors):
        for part in [part for part in tensors if part.endswith(("gate_up_proj", "down_proj"))]:
            experts, columns, rows = tensors.pop(part).shape
            shape = (experts, rows, columns // 32, 16)
            tensors[f"{part}_blocks"] = torch.randint(0, 256, shape, generator=generator).to(torch.uint8)
            tensors[f"{part}_scales"] = torch.full(shape[:3], 126, dtype=torch.uint8)
        tensors[f"{name}_blocks"][1, 5, 1, 3] = 0xA1  # 0.5, then -1
        tensors[f"{name}_scales"][1, 5, 1] = 129
        return tensors

    config = json.loads((tmp_path / "plain" / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    plan = plan_llm(BUILDER, rewrite(tmp_path / "plain", tmp_path / "llm", packed, **config))
    decoder = plan.load("cpu", torch.float32)
    assert decoder.get_parameter(name)[1, 32 + 6 : 32 + 8, 5].tolist() == [2.0, -4.0]
    assert decoder(TOKENS).isfinite().all()
    assert plan.fingerprint(torch.float32) == llm_fingerprint(decoder)


def test_an_expert_that_is_missing_is_named(tmp_path):
    write_family(tmp_path / "whole", "qwen3_moe")

    def without(tensors):
        del tensors["model.layers.0.mlp.experts.2.up_proj.weight"]
        return tensors

    with pytest.raises(UserError, match=r"model\.layers\.0\.mlp\.experts\.gate_up_proj is missing"):
        plan_llm(BUILDER, rewrite(tmp_path / "whole", tmp_path / "llm", without))


def test_meta_files_are_refused(gemma, tmp_path):
    (tmp_path / "config.json").write_text((gemma[0] / "config.json").read_text())
    torch.save({"norm.weight": torch.zeros(2)}, tmp_path / "consolidated.00.pth")
    with pytest.raises(UserError, match=r"consolidated\.\*\.pth files are not transformers'"):
        plan_llm(BUILDER, tmp_path)
