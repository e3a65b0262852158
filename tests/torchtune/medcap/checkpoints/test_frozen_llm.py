"""The frozen LLM: what is loaded equals the file, memory stays at one model, mistakes are told before loading."""

from __future__ import annotations

import ctypes
import gc
import json
import re
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.llm_checkpoints import random_decoder, tiny_llm, write_hugging_face_llm, write_meta_llm
from medcap.checkpoints.frozen_llm import plan_llm
from medcap.checkpoints.llm_architecture import build_decoder
from medcap.checkpoints.llm_files import TensorReader
from medcap.errors import UserError
from medcap.modules.frozen_linear import quantise_layer, weights_of

TOKENS = torch.tensor([[1, 5, 9, 40, 77, 3, 250, 2], [7, 7, 8, 100, 0, 12, 99, 31]])
LLAMA3 = "torchtune.models.llama3.llama3"
LLAMA3_2 = "torchtune.models.llama3_2.llama3_2"


def _same_weights(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    mine, theirs = first.state_dict(), second.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


def _edit_tensors(folder: Path, remove: tuple[str, ...] = (), **replace: torch.Tensor) -> None:
    file = folder / "model.safetensors"
    tensors = {name: tensor for name, tensor in load_file(file).items() if name not in remove}
    save_file(tensors | {name.replace("__", "."): tensor for name, tensor in replace.items()}, file)


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("builder", [LLAMA3, "torchtune.models.llama3_1.llama3_1", LLAMA3_2])
def test_hugging_face_files_give_back_every_weight(tmp_path: Path, builder: str, shards: int) -> None:
    llm = tiny_llm(builder)
    decoder = random_decoder(llm)
    plan = plan_llm(llm, str(write_hugging_face_llm(tmp_path, decoder, shards)))
    assert (plan.dim, plan.vocab_size, plan.max_seq_len) == (32, llm["vocab_size"], 256)
    loaded = plan.load("cpu", torch.float32)
    assert _same_weights(loaded, decoder)
    torch.testing.assert_close(loaded(TOKENS), decoder(TOKENS), rtol=0, atol=0)


@pytest.mark.parametrize(("pieces", "embedding_dim"), [(1, 0), (2, 0), (2, 1)])
@pytest.mark.parametrize("builder", [LLAMA3, "torchtune.models.llama3_1.llama3_1", LLAMA3_2])
def test_meta_files_give_back_every_weight(tmp_path: Path, builder: str, pieces: int, embedding_dim: int) -> None:
    llm = tiny_llm(builder)
    decoder = random_decoder(llm)
    loaded = plan_llm(llm, write_meta_llm(tmp_path, decoder, pieces, embedding_dim)).load("cpu", torch.float32)
    assert _same_weights(loaded, decoder)
    torch.testing.assert_close(loaded(TOKENS), decoder(TOKENS), rtol=0, atol=0)


def test_loaded_decoder_is_frozen_real_and_in_eval_mode(tmp_path: Path) -> None:
    llm = tiny_llm(attn_dropout=0.5)
    decoder = plan_llm(llm, write_hugging_face_llm(tmp_path, random_decoder(llm))).load("cpu", torch.bfloat16)
    assert not decoder.training
    assert all(not parameter.requires_grad for parameter in decoder.parameters())
    assert {parameter.dtype for parameter in decoder.parameters()} == {torch.bfloat16}
    tensors = [*decoder.parameters(), *decoder.buffers()]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}
    assert decoder.layers[0].attn.pos_embeddings.cache.dtype == torch.float32


def test_safetensors_are_preferred_and_named_files_obeyed(tmp_path: Path) -> None:
    llm = tiny_llm()
    one, other = random_decoder(llm, seed=1), random_decoder(llm, seed=2)
    write_meta_llm(write_hugging_face_llm(tmp_path, one), other)
    assert _same_weights(plan_llm(llm, tmp_path).load("cpu", torch.float32), one)
    named = plan_llm(llm, tmp_path, ["original/consolidated.00.pth"])
    assert _same_weights(named.load("cpu", torch.float32), other)


def test_precomputed_rotary_tables_are_ignored(tmp_path: Path) -> None:
    llm = tiny_llm(LLAMA3)
    decoder = random_decoder(llm)
    write_hugging_face_llm(tmp_path, decoder)
    _edit_tensors(tmp_path, model__layers__0__self_attn__rotary_emb__inv_freq=torch.ones(4))
    assert _same_weights(plan_llm(llm, tmp_path).load("cpu", torch.float32), decoder)


def test_untied_builder_takes_the_embedding_of_a_tied_checkpoint(tmp_path: Path) -> None:
    tied = random_decoder(tiny_llm(LLAMA3_2, scale_factor=8))
    write_hugging_face_llm(tmp_path, tied)
    loaded = plan_llm(tiny_llm(), tmp_path).load("cpu", torch.float32)
    assert loaded.output.weight is loaded.tok_embeddings.weight
    torch.testing.assert_close(loaded(TOKENS), tied(TOKENS))


def test_repeated_embedding_is_dropped_and_another_output_refused(tmp_path: Path) -> None:
    llm = tiny_llm(LLAMA3_2)
    decoder = random_decoder(llm)
    write_hugging_face_llm(tmp_path, decoder)
    _edit_tensors(tmp_path, lm_head__weight=decoder.tok_embeddings.weight.detach().clone())
    assert _same_weights(plan_llm(llm, tmp_path).load("cpu", torch.float32), decoder)
    _edit_tensors(tmp_path, lm_head__weight=decoder.tok_embeddings.weight.detach() + 1)
    plan = plan_llm(llm, tmp_path)
    with pytest.raises(UserError, match=r"lm_head\.weight differs from the embedding table"):
        plan.load("cpu", torch.float32)


def _write_large(folder: Path, kind: str) -> tuple[dict, int]:
    llm = tiny_llm(LLAMA3, vocab_size=24_000, embed_dim=512, intermediate_dim=8192, num_layers=3)
    decoder = random_decoder(llm)
    (write_hugging_face_llm if kind == "hugging_face" else write_meta_llm)(folder, decoder)
    return llm, sum(parameter.nbytes for parameter in decoder.parameters())


def _memory(key: str) -> int:
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024


def _forget_peak_memory() -> None:
    try:
        gc.collect()
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # else the load could reuse what earlier tests left
        Path("/proc/self/clear_refs").write_text("5")
    except (OSError, AttributeError):
        pytest.skip("this system does not let a process reset its peak memory")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hugging_face", "meta"])
def test_loading_holds_one_model_and_never_two(tmp_path: Path, kind: str) -> None:
    llm, size = _write_large(tmp_path, kind)
    plan = plan_llm(llm, tmp_path)
    _forget_peak_memory()
    before = _memory("VmRSS")
    decoder = plan.load("cpu", torch.float32)
    assert sum(parameter.nbytes for parameter in decoder.parameters()) == size > 200e6
    assert _memory("VmHWM") - before < 1.5 * size


@pytest.mark.parametrize("kind", ["hugging_face", "meta"])
def test_one_file_tensor_is_alive_at_a_time(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = tiny_llm()
    (write_hugging_face_llm if kind == "hugging_face" else write_meta_llm)(tmp_path, random_decoder(llm))
    read, alive, reads = TensorReader.read, weakref.WeakSet(), []

    def counted(reader: TensorReader, name: str, dim: int | None = None) -> torch.Tensor:
        reads.append((name, len(alive)))
        tensor = read(reader, name, dim).clone()
        alive.add(tensor)
        return tensor

    monkeypatch.setattr(TensorReader, "read", counted)
    plan_llm(llm, tmp_path).load("cpu", torch.float32)
    assert len(reads) == 21
    assert {before for _, before in reads} == {0}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["hugging_face", "meta"])
def test_each_layer_is_handed_over_before_the_next_is_read(tmp_path: Path, kind: str) -> None:
    llm = tiny_llm(num_layers=12)  # "layers.10" sorts before "layers.2"
    decoder = random_decoder(llm)
    (write_hugging_face_llm if kind == "hugging_face" else write_meta_llm)(tmp_path, decoder)
    seen: list[torch.nn.Module] = []
    started = []

    def after_layer(layer: torch.nn.Module) -> None:
        assert not any(parameter.is_meta for parameter in layer.parameters())
        seen.append(layer)
        started.append(len(alive()))

    def alive() -> list[torch.nn.Module]:
        return [layer for layer in built.layers if not all(parameter.is_meta for parameter in layer.parameters())]

    with pytest.MonkeyPatch.context() as patch:
        built = build_decoder(llm)
        patch.setattr("medcap.checkpoints.frozen_llm.build_decoder", lambda _: built)
        loaded = plan_llm(llm, tmp_path).load("cpu", torch.float32, after_layer)
    assert [id(layer) for layer in seen] == [id(layer) for layer in loaded.layers]
    assert started == list(range(1, 13))
    assert _same_weights(loaded, decoder)


@pytest.mark.slow
@pytest.mark.parametrize("llm_weights", ["fp8", "int8", "nf4"])
def test_low_precision_layers_are_those_of_the_whole_model_quantised(tmp_path: Path, llm_weights: str) -> None:
    llm = tiny_llm()
    decoder = random_decoder(llm)
    plan = plan_llm(llm, write_hugging_face_llm(tmp_path, decoder), llm_weights=llm_weights)
    loaded = plan.load("cpu", torch.bfloat16)
    decoder.bfloat16()
    for layer in decoder.layers:
        quantise_layer(layer, llm_weights)
    assert weights_of(loaded) == llm_weights
    assert _same_weights(loaded, decoder)
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert {tensor.dtype for tensor in loaded.parameters()} == {torch.bfloat16}


def test_never_more_than_one_layer_waits_to_be_quantised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = tiny_llm(num_layers=5)
    plan = plan_llm(llm, write_hugging_face_llm(tmp_path, random_decoder(llm)), llm_weights="int8")
    built = build_decoder(llm)
    monkeypatch.setattr("medcap.checkpoints.frozen_llm.build_decoder", lambda _: built)
    read, waiting, handed_over = TensorReader.read, [], []

    def watched(self: TensorReader, *arguments: object) -> torch.Tensor:
        plain = (part for part in built.layers.modules() if isinstance(part, torch.nn.Linear))
        waiting.append(sum(not part.weight.is_meta for part in plain))
        return read(self, *arguments)

    monkeypatch.setattr(TensorReader, "read", watched)
    plan.load("cpu", torch.float32, lambda layer: handed_over.append(weights_of(layer)))
    # While a layer's last tensor is read, its other linear maps are there, and nobody else's.
    assert max(waiting) == 7
    assert handed_over == ["int8"] * 5
    assert not any(isinstance(part, torch.nn.Linear) for part in built.layers.modules())


def test_a_precision_that_cannot_hold_a_layer_is_refused_before_files_are_read(tmp_path: Path) -> None:
    llm = tiny_llm(embed_dim=20, num_kv_heads=1, intermediate_dim=17)
    with pytest.raises(UserError, match=r"llm_weights=nf4 cannot hold layers\.0\.attn\.q_proj: its 20 x 20 numbers"):
        plan_llm(llm, tmp_path, llm_weights="nf4")


@pytest.mark.parametrize(
    ("llm", "message"),
    [
        ({}, r"llm\._component_ is missing"),
        ({"_component_": "torchtune.models.llama3_1.llama31_8b"}, r"llm\._component_=.*llama31_8b cannot be found"),
        ({"_component_": "torchtune.models.llama3_1.llama3_1_8b", "layers": 3}, r"unknown key llm\.layers"),
        ({"_component_": LLAMA3, "vocab_size": 3}, r"llm\.num_layers is missing"),
        (tiny_llm(num_heads=3), r"llm: .*llama3_1 cannot be built with these arguments"),
        ({"_component_": "torch.nn.Flatten"}, r"makes a Flatten, not a text decoder"),
    ],
)
def test_wrong_llm_key_is_named(tmp_path: Path, llm: dict, message: str) -> None:
    write_hugging_face_llm(tmp_path, random_decoder(tiny_llm()))
    with pytest.raises(UserError, match=message):
        plan_llm(llm, tmp_path)


def test_all_wrong_tensors_are_reported_in_one_line(tmp_path: Path) -> None:
    write_hugging_face_llm(tmp_path, random_decoder(tiny_llm()))
    _edit_tensors(
        tmp_path,
        remove=("model.norm.weight",),
        model__layers__1__mlp__up_proj__weight=torch.zeros(63, 32),
        surprise=torch.zeros(1),
    )
    with pytest.raises(UserError) as caught:
        plan_llm(tiny_llm(), tmp_path)
    message = str(caught.value)
    assert "model.norm.weight is missing" in message
    assert "model.safetensors: model.layers.1.mlp.up_proj.weight has shape [63, 32], expected [64, 32]" in message
    assert "model.safetensors: surprise is unexpected" in message
    assert "\n" not in message


def test_many_wrong_tensors_stay_one_readable_line(tmp_path: Path) -> None:
    write_hugging_face_llm(tmp_path, random_decoder(tiny_llm()))
    (tmp_path / "config.json").unlink()
    with pytest.raises(UserError, match=r"; and 15 more$"):
        plan_llm(tiny_llm(embed_dim=64), tmp_path)


def test_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    write_hugging_face_llm(tmp_path, random_decoder(tiny_llm()), shards=2)
    first, second = sorted(tmp_path.glob("model-*.safetensors"))
    name = next(iter(load_file(first)))
    save_file(load_file(second) | {name: load_file(first)[name]}, second)
    with pytest.raises(UserError, match=rf"{re.escape(name)} is in {first.name} and in {second.name}"):
        plan_llm(tiny_llm(), tmp_path)


def test_config_of_another_model_is_reported_with_both_values(tmp_path: Path) -> None:
    write_hugging_face_llm(tmp_path, random_decoder(tiny_llm(num_layers=1, num_heads=8)))
    with pytest.raises(
        UserError,
        match=r"config\.json has num_hidden_layers 1 \(the builder: 2\), num_attention_heads 8 \(the builder: 4\)",
    ):
        plan_llm(tiny_llm(), tmp_path)


@pytest.mark.parametrize(
    ("builder", "message"),
    [
        (LLAMA3, r"rope_scaling llama3 with factor 8, .* \(the builder: none\)"),
        (LLAMA3_2, r"tie_word_embeddings False \(the builder: True\).*factor 8.*the builder: llama3 with factor 32"),
    ],
)
def test_builder_with_other_rotary_scaling_is_refused(tmp_path: Path, builder: str, message: str) -> None:
    write_hugging_face_llm(tmp_path, random_decoder(tiny_llm()))
    with pytest.raises(UserError, match=message):
        plan_llm(tiny_llm(builder), tmp_path)


def test_params_of_another_model_are_reported_with_both_values(tmp_path: Path) -> None:
    write_meta_llm(tmp_path, random_decoder(tiny_llm(LLAMA3, rope_base=10_000)))
    with pytest.raises(
        UserError, match=r"params\.json has rope_theta 10000\.0 \(the builder: 500000\.0\), use_scaled_rope False"
    ):
        plan_llm(tiny_llm(), tmp_path)


def test_llama2_params_without_vocabulary_size_are_accepted(tmp_path: Path) -> None:
    llm = tiny_llm("torchtune.models.llama2.llama2", vocab_size=64)
    decoder = random_decoder(llm)
    write_meta_llm(tmp_path, decoder)
    params = json.loads((tmp_path / "original/params.json").read_text())
    (tmp_path / "original/params.json").write_text(json.dumps({**params, "vocab_size": -1}))
    assert _same_weights(plan_llm(llm, tmp_path).load("cpu", torch.float32), decoder)


def test_quantised_checkpoint_is_refused(tmp_path: Path) -> None:
    write_hugging_face_llm(tmp_path, random_decoder(tiny_llm()), quantization_config={"quant_method": "gptq"})
    with pytest.raises(UserError, match="holds a quantised model: give the original one"):
        plan_llm(tiny_llm(), tmp_path)


def test_integer_weights_are_refused(tmp_path: Path) -> None:
    write_hugging_face_llm(tmp_path, random_decoder(tiny_llm()))
    _edit_tensors(tmp_path, model__norm__weight=torch.zeros(32, dtype=torch.int8))
    with pytest.raises(UserError, match=r"model\.norm\.weight is not floating-point"):
        plan_llm(tiny_llm(), tmp_path)


def test_meta_files_with_another_family_are_refused(tmp_path: Path) -> None:
    write_meta_llm(tmp_path, random_decoder(tiny_llm()))
    with pytest.raises(UserError, match=r"consolidated\.\*\.pth files hold Llama models"):
        plan_llm(tiny_llm("torchtune.models.qwen2.qwen2"), tmp_path)


def test_lora_builder_is_refused(tmp_path: Path) -> None:
    write_hugging_face_llm(tmp_path, random_decoder(tiny_llm()))
    llm = tiny_llm("torchtune.models.llama3_1.lora_llama3_1", lora_attn_modules=["q_proj"], lora_rank=2, lora_alpha=2)
    with pytest.raises(UserError, match=r"the decoder has weights that no checkpoint holds: .*lora_a"):
        plan_llm(llm, tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    llm = tiny_llm(LLAMA3)
    write_hugging_face_llm(tmp_path, random_decoder(llm))
    scale = torch.ones(32)
    scale[3] = value
    _edit_tensors(tmp_path, model__layers__1__input_layernorm__weight=scale)
    with pytest.raises(UserError, match=r"1 of 32 values of tensor layers\.1\.sa_norm\.scale are NaN or infinite"):
        plan_llm(llm, tmp_path).load("cpu", torch.float32)


def test_empty_tensors_tell_their_reason(tmp_path: Path) -> None:
    llm = tiny_llm(LLAMA3)
    write_hugging_face_llm(tmp_path, random_decoder(llm))
    _edit_tensors(tmp_path, model__norm__weight=torch.ones(0))
    with pytest.raises(UserError, match=r"model\.norm\.weight .*it is empty, as DeepSpeed's ZeRO-3 saves"):
        plan_llm(llm, tmp_path)
