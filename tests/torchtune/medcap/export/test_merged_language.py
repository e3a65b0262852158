"""The language model of a run with its adapters merged, as transformers and medcap load it."""

import hashlib
import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, LlamaForCausalLM

from helpers.llm_checkpoints import random_decoder, tiny_llm, write_meta_llm
from helpers.run_adapters import with_adapters
from helpers.run_folders import LLAMA3, write_run
from medcap.checkpoints.frozen_llm import plan_llm
from medcap.cli import main
from medcap.errors import UserError
from medcap.export.merged_language import MergeOptions, merge_run
from medcap.generation.run import open_run

TOKENS = torch.arange(20, 50)[None]
FP32 = MergeOptions("fp32")


def logits(run, *overrides):
    with torch.no_grad():
        return open_run(run, ["device=cpu", *overrides]).model.eval().decoder(TOKENS)


def check_merged(run, out):
    expected = logits(run)
    assert (expected - logits(run, "without=[llm_lora]")).abs().max() > 1e-2
    with torch.no_grad():
        theirs, found = LlamaForCausalLM.from_pretrained(out, output_loading_info=True)
        assert not found["missing_keys"] and not found["unexpected_keys"]
        assert (theirs.eval()(TOKENS).logits - expected).abs().max() < 1e-4
    ours = logits(run, f"checkpointer.checkpoint_dir={out}", "without=[llm_lora]")
    assert (ours - expected).abs().max() < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [{"rank": 4}, {"rank": 2, "targets": ["q_proj", "k_proj", "down_proj"], "rank_stabilised": True}],
    ids=["all", "some"],
)
def test_the_merged_model_computes_what_the_run_computes(tmp_path, options):
    run = with_adapters(write_run(tmp_path), **options)
    assert merge_run(run, tmp_path / "out", options=FP32) == []
    check_merged(run, tmp_path / "out")
    made_of = json.loads((tmp_path / "out/merge.json").read_text())
    assert made_of["base"] == {
        "name": "llm",
        "dtype": "float32",
        "sha256": plan_llm(tiny_llm(LLAMA3), tmp_path / "llm").fingerprint(torch.float32),
    }
    assert made_of["components"]["llm_lora"]["rank"] == options["rank"]
    assert made_of["dtype"] == "float32" and len(made_of["components"]["llm_lora"]["sha256"]) == 64
    assert (tmp_path / "out/original/tokenizer.model").read_bytes() == (
        tmp_path / "llm/original/tokenizer.model"
    ).read_bytes()


@pytest.mark.slow
def test_metas_files_become_a_hugging_face_folder(tmp_path):
    run = write_run(tmp_path)
    hugging_face = tmp_path / "llm"
    hugging_face.rename(tmp_path / "kept")
    write_meta_llm(hugging_face, random_decoder(tiny_llm(LLAMA3)), pieces=2)
    with_adapters(run, rank=4)
    merge_run(run, tmp_path / "out", options=FP32)
    check_merged(run, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("A lesion.")["input_ids"] == open_run(run).tokenizer.tokenizer.encode("A lesion.", add_eos=False)


@pytest.mark.slow
def test_the_command_rounds_to_the_dtype_of_the_files_and_says_so(tmp_path, capsys):
    run = with_adapters(write_run(tmp_path, dtype=torch.bfloat16), rank=4)
    main(["merge", str(run), "--out", str(tmp_path / "out"), "--shard-size", "20KB"])
    printed = capsys.readouterr()
    assert f"wrote {tmp_path / 'out'}" in printed.out
    assert "note: the sums are rounded to bfloat16, so answers may differ a little" in printed.err
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    adapters = open_run(run).model.components["llm_lora"]
    name = "layers.0.attn.v_proj.weight"
    base = load_file(tmp_path / "llm/model.safetensors")["model.layers.0.self_attn.v_proj.weight"]
    expected = (base.float() + adapters.added_weight(name)).bfloat16()
    found = {}
    for file in (tmp_path / "out").glob("model-*.safetensors"):
        found |= load_file(file)
    assert torch.equal(found["model.layers.0.self_attn.v_proj.weight"], expected)


@pytest.mark.slow
def test_a_run_without_adapters_is_refused(tmp_path):
    run = write_run(tmp_path)
    with pytest.raises(UserError, match="run has no adapters to merge: its language model is the untouched one"):
        merge_run(run, tmp_path / "out")
    with_adapters(run, rank=4)
    with pytest.raises(UserError, match="run has no adapters to merge"):
        merge_run(run, tmp_path / "out", ["without=[llm_lora]"])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine").touch()
    with pytest.raises(UserError, match="full exists already: remove it"):
        merge_run(run, tmp_path / "full")


@pytest.mark.slow
def test_another_family_is_refused(tmp_path):
    llm = tiny_llm("torchtune.models.qwen2.qwen2", num_kv_heads=2)
    run = with_adapters(write_run(tmp_path), rank=4)
    before = hashlib.sha256((tmp_path / "llm/model.safetensors").read_bytes()).digest()
    with pytest.raises(UserError, match=r"qwen2.* (is not the model of|does not hold the model)"):
        merge_run(run, tmp_path / "out", [f"llm._component_={llm['_component_']}"])
    assert hashlib.sha256((tmp_path / "llm/model.safetensors").read_bytes()).digest() == before
    assert not (tmp_path / "out").exists()
