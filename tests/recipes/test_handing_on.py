"""A trained run handed on and taken back: exported apart, imported, trained on, merged."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaForCausalLM

from helpers.run_folders import LLAMA3
from helpers.vision_checkpoints import write_hugging_face_folder
from helpers.workspace import Workspace
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.cli import main
from medcap.generation.run import open_run

pytestmark = pytest.mark.slow
LORA = ("llm_lora.rank=4", "llm_lora.targets=[q_proj,v_proj]")
TOKENS = torch.arange(20, 50)[None]


def tensors(folder):
    return load_file(folder / "vision.safetensors") | load_file(folder / "llm_lora.safetensors")


def logits(run):
    with torch.no_grad():
        return open_run(run, ["device=cpu"]).model.eval().decoder(TOKENS)


def test_what_was_trained_is_what_comes_back_and_trains_on(tmp_path, capfd):
    workspace = Workspace(tmp_path, builder=LLAMA3)
    write_hugging_face_folder(tmp_path / "clip", "clip", "vision")
    model = (f"vision={tmp_path}/clip", "projector.num_image_tokens=null", *LORA)
    run = workspace.train(*model, "trainable=[projector,llm_lora]", "optimizer.lr=0.05", output="trained")
    out, back = str(tmp_path / "out"), tmp_path / "back"
    main(["export", str(run), "--out", out, "--adapters", "apart"])
    main(["import", out, "--out", str(back)])
    expected = tensors(latest_checkpoint(run))
    assert any(tensor.any() for name, tensor in expected.items() if "lora_b" in name)
    found = tensors(back)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    assert torch.equal(logits(back), logits(run))

    capfd.readouterr()
    on = workspace.train(*model, f"init_from={back}", "trainable=[llm_lora]", "optimizer.lr=0", output="on")
    assert "vision, projector, llm_lora: go on from it" in capfd.readouterr().err
    assert all(torch.equal(tensors(latest_checkpoint(on))[name], tensor) for name, tensor in expected.items())

    main(["merge", str(back), "--out", str(tmp_path / "merged"), "--dtype", "fp32"])
    merged = LlamaForCausalLM.from_pretrained(tmp_path / "merged")
    with torch.no_grad():
        assert (merged(TOKENS).logits - logits(run)).abs().max() < 1e-4
    summary = json.loads((run / "summary.json").read_text())
    made_of = json.loads((tmp_path / "merged/merge.json").read_text())
    assert made_of["base"]["sha256"] == summary["llm_sha256_before"]
