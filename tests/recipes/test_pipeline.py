"""A pipeline of real recipes: a stage that aligns, one that goes on from it, questions with and without images."""

import json

import pytest
import torch
import yaml
from safetensors.torch import load_file

from medcap.checkpoints.atomic import latest_checkpoint
from medcap.cli import main

pytestmark = pytest.mark.slow


def test_stages_build_on_each_other(workspace, capfd):
    def stage(config, **overrides):
        words = dict(word.split("=", 1) for word in workspace.training()[2:])
        recipe = {"config": "medcap/tiny/single_device"}
        if config == "generation":
            words = dict(word.split("=", 1) for word in workspace.model_overrides())
            recipe = {"config": "medcap/tiny/generation", "recipe": "medcap/recipes/generate"}
        given = {key: yaml.safe_load(text) for key, text in words.items() if key != "output_dir"}
        return {**recipe, "overrides": {**given, **overrides}}

    rows = [{"image": "images/0.png", "question": "Is there a circle?", "answer": "yes", "answer_type": "closed"}]
    questions = workspace.write_data("vqa.json", rows)
    stages = {
        "align": stage("single_device", trainable=["projector"]),
        "instruct": stage(
            "single_device",
            init_from="${stages.align.output_dir}",
            trainable={"projector": {"lr": 0.0}, "llm_lora": {"lr": 0.01}},
            **{"llm_lora.rank": 4, "vision": None},
        ),
        "ask": stage(
            "generation",
            vision_checkpoint="${stages.instruct.output_dir}",
            test_vqa=True,
            dataset_source=str(questions),
            controls=["no_image"],
            max_new_tokens=4,
        ),
    }
    path = workspace.folder / "pipeline.yaml"
    path.write_text(yaml.safe_dump({"output_dir": str(workspace.folder / "out"), "stages": stages}, sort_keys=False))
    assert main(["run", str(path)]) == 0
    printed = capfd.readouterr()
    out = workspace.folder / "out"
    align, instruct = (latest_checkpoint(out / name) for name in ("align", "instruct"))
    expected = load_file(align / "vision.safetensors")
    # The projector's rate is 0 in the second stage, so it is the first one's.
    assert all(
        torch.equal(tensor, expected[name]) for name, tensor in load_file(instruct / "vision.safetensors").items()
    )
    history = json.loads((instruct / "vision.json").read_text())["history"]
    assert [entry["trained"] for entry in history] == [["projector"], ["projector", "llm_lora"]]
    scores = json.loads((out / "ask/vqa/metrics.json").read_text())
    assert scores["n"] == 1 and "no_image" in scores["controls"]
    assert "ask" in printed.out and str(out / "instruct") in printed.out
    assert main(["run", str(path)]) == 0
    assert "[ask] done before" in capfd.readouterr().err
