"""Adapters of two runs as experts of a third: trained, saved, resumed without them, answered with, and refused."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from helpers.llm_checkpoints import random_decoder, write_hugging_face_llm
from helpers.workspace import Workspace, log
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.cli import main
from medcap.generation.prompt import question_request
from medcap.generation.run import open_run
from medcap.models.component_registry import COMPONENTS

pytestmark = pytest.mark.slow
TRAINED = ("trainable={llm_lora: {lr: 0.05}}", "epochs=2", "save_every_n_steps=1")


def tensors(output):
    return load_file(latest_checkpoint(output) / "llm_lora.safetensors")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A workspace with the runs of two experts over one tower, and one that chooses between them."""
    workspace = Workspace(tmp_path_factory.mktemp("experts"))
    align = workspace.train("trainable=[projector]", "max_steps_per_epoch=1", output="align")
    start = (f"init_from={align}", "trainable=[llm_lora]", "optimizer.lr=0.05", "max_steps_per_epoch=2")
    workspace.train(*start, "llm_lora.rank=4", "seed=1", output="words")
    workspace.train(*start, "llm_lora={rank: 2, targets: [q_proj, down_proj]}", "seed=2", output="boxes")
    workspace.routed = (f"init_from={align}", experts(workspace), *TRAINED)
    workspace.train(*workspace.routed, output="routed")
    return workspace


def experts(workspace, *more):
    runs = ", ".join(str(workspace.folder / name) for name in ("words", "boxes"))
    return f"llm_lora={{{', '.join((f'experts: [{runs}]', *more))}}}"


def test_the_experts_stay_what_they_were_and_the_router_learns(place):
    found = tensors(place.folder / "routed")
    for number, name in enumerate(("words", "boxes")):
        own = tensors(place.folder / name)
        prefix = f"llm_lora.experts.{number}."
        assert {key for key in found if key.startswith(prefix)} == {key.replace("llm_lora.", prefix, 1) for key in own}
        assert all(torch.equal(found[key.replace("llm_lora.", prefix, 1)], tensor) for key, tensor in own.items())
    routers = [name for name in found if ".router." in name]
    assert routers == ["llm_lora.router.0.weight", "llm_lora.router.1.weight"]
    assert all(found[name].abs().sum() > 0 for name in routers)


def test_the_log_has_the_shares_and_the_balance(place):
    lines = log(place.folder / "routed")
    assert all(line["expert_share_0"] + line["expert_share_1"] == pytest.approx(1.0) for line in lines)
    assert all(line["loss"] == pytest.approx(line["loss_text"]) for line in lines)
    assert lines[0]["expert_share_0"] == 1.0 and lines[0]["loss_router_balance"] == pytest.approx(1.0)
    weighed = place.train(*place.routed, "losses.router_balance=0.5", "max_steps_per_epoch=1", output="weighed")
    (line, *_) = log(weighed)
    assert line["loss"] == pytest.approx(line["loss_text"] + 0.5)


def test_the_banner_tells_what_is_frozen_and_where_it_comes_from(place, capfd):
    place.train(*place.routed, "max_steps_per_epoch=1", "epochs=1", output="banner")
    shown = capfd.readouterr().err
    assert "router of experts    trained" in shown and "llm_lora, experts    frozen" in shown
    assert "llm_lora: start from the runs that llm_lora.experts names" in shown
    trained = (place.routed[0], experts(place, "train_experts: true"), *TRAINED)
    output = place.train(*trained, "epochs=1", output="all")
    assert "experts    frozen" not in capfd.readouterr().err
    found, own = tensors(output), tensors(place.folder / "words")
    assert any(not torch.equal(found[key.replace("llm_lora.", "llm_lora.experts.0.", 1)], own[key]) for key in own)


@pytest.mark.parametrize("router", ["token", "sequence"])
def test_a_run_is_whole_without_the_runs_of_its_experts(place, tmp_path, router):
    words = (place.routed[0], experts(place, f"router: {router}"), *TRAINED)
    whole = place.folder / "routed" if router == "token" else place.train(*words, output="asked")
    names, away = ("words", "boxes", "align"), tmp_path / "away"
    away.mkdir()
    for name in names:
        shutil.move(place.folder / name, away / name)
    try:
        step = whole / "checkpoint/step_000001"
        resumed = place.train(*words, f"resume_from_checkpoint={step}", output=tmp_path / "resumed")
        expected = tensors(whole)
        assert log(resumed)[-1]["loss"] == log(whole)[-1]["loss"]
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(resumed).items())
        open_run(resumed, ["device=cpu"])
    finally:
        for name in names:
            shutil.move(away / name, place.folder / name)
    request = question_request(str(place.folder / "images/0.png"), "Is there a circle?")
    sums = [open_run(run, ["device=cpu"]).score([request], [["yes", "no"]])[0].sums for run in (whole, resumed)]
    assert sums[0] == sums[1]


def test_rows_say_which_experts_answered(place, capsys):
    run = place.folder / "routed"
    words = (f"vision_checkpoint={run}", f"output_dir={place.folder / 'answers'}", f"dataset_source={place.data}")
    place.generate(*words, "test_vqa=True", "controls=false", "router_output=true", "limit=3")
    rows = (place.folder / "answers/vqa/predictions.jsonl").read_text().splitlines()
    assert rows and all(sum(json.loads(row)["experts"]) == pytest.approx(1.0) for row in rows)
    place.generate(*words[:2], f"image={place.folder / 'images/0.png'}", "router_output=true")
    assert "share of each expert: " in capsys.readouterr().err
    with pytest.raises(SystemExit):
        place.generate(f"vision_checkpoint={place.folder / 'words'}", *words[1:], "test_vqa=True", "router_output=true")
    assert "router_output=true: this model has no llm_lora.experts" in capsys.readouterr().err


def test_no_single_weight_holds_it(place, tmp_path, capsys):
    run = str(place.folder / "routed")
    for words in (["merge", run, "--out"], ["export", run, "--adapters", "apart", "--out"], ["export", run, "--out"]):
        with pytest.raises(SystemExit):
            main([*words, str(tmp_path / "out")])
        line = capsys.readouterr().err.strip()
        assert "this run chooses among experts" in line and "\n" not in line
    described = json.loads((latest_checkpoint(place.folder / "routed") / "vision.json").read_text())
    # What the model card of a vision export says.
    summary = COMPONENTS["llm_lora"].summary(described["components"]["llm_lora"])
    assert summary == "experts words, boxes; the router chooses 1 for each token"


def refusal(place, capsys, *overrides):
    with pytest.raises(SystemExit) as ended:
        place.train(*place.routed, *overrides, output="refused")
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line.replace(str(place.folder), "HERE")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ["llm_lora.experts=[HERE/words, HERE/none]"],
            "llm_lora.experts: there is no run HERE/none; give",
        ),
        (
            ["llm_lora.experts=[HERE/words, HERE/align]"],
            "llm_lora.experts: HERE/align has no adapters; name",
        ),
        (["llm_lora.experts=[HERE/words, HERE/routed]"], "llm_lora.experts: HERE/routed chooses among experts itself"),
        (["llm_lora.experts=[HERE/words]"], "llm_lora.experts=['HERE/words']: give at least two runs with llm_lora"),
        (["llm_lora.experts=[1, 2]"], "llm_lora.experts=[1, 2]: give at least two runs with llm_lora"),
        (["llm_lora.top_k=3"], "llm_lora.top_k=3: it must be from 1 to 2, the number of experts"),
        (["llm_lora.router=tokens"], "llm_lora.router=tokens: choose from token, sequence"),
        (["llm_lora.rank=4"], "llm_lora.rank cannot be given beside llm_lora.experts: leave it out"),
        (["llm_lora.targets=[q_proj]"], "llm_lora.targets cannot be given beside llm_lora.experts: leave it out"),
        (["llm_lora.rotuer=token"], "unknown key llm_lora.rotuer: did you mean llm_lora.router?"),
        (["init_from=null", "vision_checkpoint=HERE/words"], "llm_lora.experts: vision_checkpoint=HERE/words brings"),
        (["init_from=HERE/routed", "llm_lora.top_k=2"], "init_from=HERE/routed: its llm_lora has {'top_k': 1}"),
        (
            ["llm_lora.router=sequence", "dataset.train_on_header=true"],
            "dataset.train_on_header=true: llm_lora.router=sequence reads the words before the first that is learnt",
        ),
    ],
)
def test_mistakes_are_one_line_before_weights_load(place, capsys, monkeypatch, given, message):
    monkeypatch.setattr("medcap.checkpoints.frozen_llm.LLMPlan.load", lambda *_, **__: pytest.fail("weights were read"))
    line = refusal(place, capsys, *(word.replace("HERE", str(place.folder)) for word in given))
    assert message in line


def test_another_language_model_of_the_same_shape_is_refused(place, capsys, tmp_path):
    torch.manual_seed(9)
    decoder = random_decoder(place.llm)
    with torch.no_grad():
        decoder.layers[0].attn.q_proj.weight += 0.1
    write_hugging_face_llm(tmp_path / "llm", decoder)
    line = refusal(place, capsys, f"checkpointer.checkpoint_dir={tmp_path / 'llm'}")
    assert "llm_lora.experts: HERE/words was trained on another language model (torchtune.models" in line


def test_the_data_can_be_looked_at_before_the_experts_are_there(place, capsys):
    words = place.training(*place.routed, f"llm_lora.experts=[{place.folder / 'later'}, {place.folder / 'words'}]")
    assert main(["validate", "--config", words[1], *words[2:]]) == 0
    assert "13 rows" in capsys.readouterr().out
