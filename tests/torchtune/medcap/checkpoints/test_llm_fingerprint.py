"""The fingerprint of the frozen LLM: it tells every number, and not how the files hold them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from helpers.llm_checkpoints import random_decoder, tiny_llm, write_hugging_face_llm, write_meta_llm
from medcap.checkpoints.frozen_llm import plan_llm
from medcap.checkpoints.llm_fingerprint import llm_checksums, llm_fingerprint
from medcap.modules.frozen_linear import FrozenLinear


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("builder", ["torchtune.models.llama3.llama3", "torchtune.models.llama3_2.llama3_2"])
def test_the_unquantised_models_fingerprint_comes_from_its_files(
    tmp_path: Path, builder: str, dtype: torch.dtype
) -> None:
    llm = tiny_llm(builder, num_layers=12)  # "layers.10" sorts before "layers.2"
    decoder = random_decoder(llm)
    stored = write_meta_llm(write_hugging_face_llm(tmp_path, decoder, shards=2), decoder)
    expected = llm_fingerprint(decoder.to(dtype))
    for files in (None, ["original/consolidated.00.pth"]):  # Meta's repeats the tied embeddings of 3.2
        for llm_weights in ("bf16", "nf4"):
            assert plan_llm(llm, stored, files, llm_weights).fingerprint(dtype) == expected


def test_fingerprint_tells_every_quantised_number(tmp_path: Path) -> None:
    llm = tiny_llm()
    stored = write_hugging_face_llm(tmp_path, random_decoder(llm))
    prints = set()
    for llm_weights in ("bf16", "fp8", "int8", "nf4"):
        decoder = plan_llm(llm, stored, llm_weights=llm_weights).load("cpu", torch.float32)
        assert llm_fingerprint(decoder) == llm_fingerprint(decoder)
        prints.add(llm_fingerprint(decoder))
    assert len(prints) == 4
    linear = decoder.layers[1].mlp.w2
    assert isinstance(linear, FrozenLinear)
    for name, tensor in linear.named_buffers():
        before = llm_fingerprint(decoder)
        tensor.reshape(-1).view(torch.uint8)[-1] ^= 1
        assert llm_fingerprint(decoder) != before, name


def test_fingerprint_tells_every_weight_and_not_the_way_it_was_stored(tmp_path: Path) -> None:
    llm = tiny_llm()
    decoder = random_decoder(llm)
    stored = write_meta_llm(write_hugging_face_llm(tmp_path / "a", decoder, shards=2), decoder)
    one = plan_llm(llm, stored).load("cpu", torch.bfloat16)
    other = plan_llm(llm, stored, ["original/consolidated.00.pth"]).load("cpu", torch.bfloat16)
    assert llm_fingerprint(one) == llm_fingerprint(other) != llm_fingerprint(decoder)
    with torch.no_grad():
        other.norm.scale[3] += 1
    assert llm_fingerprint(one) != llm_fingerprint(other)


def test_fingerprint_of_fixed_weights_never_changes() -> None:
    module = torch.nn.Linear(2, 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[1.0, 2.0]]))
        module.bias.fill_(0.5)
    assert llm_fingerprint(module) == "f678f8dd57d3b8dc22af8ecd2035bfd3cd08f482f1622d7fe602883d3810fa91"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_checksums_tell_every_bit_and_every_exchange(dtype: torch.dtype) -> None:
    module = torch.nn.Linear(4, 3)
    module.weight = torch.nn.Parameter(torch.randn(3, 4).to(dtype), requires_grad=False)
    module.bias.requires_grad_(False)
    before = llm_checksums(module)
    raw = module.weight.view(torch.uint8).reshape(-1)
    for place in range(len(raw)):
        for bit in range(8):
            raw[place] ^= 1 << bit
            assert llm_checksums(module)[1] != before[1]
            raw[place] ^= 1 << bit
    assert llm_checksums(module) == before
    flat = module.weight.reshape(-1)
    flat[[0, 5]] = flat[[5, 0]].clone()
    changed = llm_checksums(module)
    assert changed[0] == before[0]  # the bias comes first
    assert changed[1] != before[1]


def test_checksum_of_fixed_weights_is_the_sum_of_words_times_odd_numbers() -> None:
    module = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.tensor([[1, 2], [-3, 4]], dtype=torch.int16).view(torch.bfloat16))
    assert llm_checksums(module) == [1 * 1 + 2 * 3 - 3 * 5 + 4 * 7]
