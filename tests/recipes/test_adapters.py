"""Adapters on the language model, the whole way: trained, saved, resumed, divided over processes, answered with."""

import io
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.workspace import log
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.cli import main
from medcap.errors import UserError
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.generation.run import open_run, open_runs

LORA = ("llm_lora.rank=4",)


def tensors(output):
    step = latest_checkpoint(output)
    return load_file(step / "vision.safetensors") | load_file(step / "llm_lora.safetensors")


def summary(output):
    return json.loads((output / "summary.json").read_text())


def test_each_component_has_its_own_learning_rate(workspace):
    alike = workspace.train(*LORA, "trainable=[projector,llm_lora]", output="alike")
    given = "trainable={projector: {lr: 0.0}, llm_lora: {weight_decay: 0.1}}"
    other = workspace.train(*LORA, given, output="other")
    before = tensors(workspace.train(*LORA, "trainable=[llm_lora]", output="before"))
    found = tensors(other)
    assert all(torch.equal(found[name], before[name]) for name in found if name.startswith("projector."))
    assert any(not torch.equal(found[name], before[name]) for name in found if name.startswith("llm_lora."))
    assert not torch.equal(tensors(alike)["projector.0.weight"], found["projector.0.weight"])


def test_a_resumed_run_is_the_undisturbed_one(workspace):
    options = (*LORA, "llm_lora.dropout=0.2", "trainable={projector: {lr: 0.003}, llm_lora: {}}", "epochs=2")
    whole = workspace.train(*options, output="whole")
    workspace.train(*options, "save_every_n_steps=1", output="again")
    step = workspace.folder / "again/checkpoint/step_000001"
    resumed = workspace.train(*options, f"resume_from_checkpoint={step}", output="resumed")
    assert log(resumed)[-1]["loss"] == log(whole)[-1]["loss"]
    expected = tensors(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(resumed).items())


@pytest.mark.processes
@pytest.mark.parametrize("parallelism", ["replicate", "shard"])
def test_two_processes_train_what_one_trains(workspace, server, parallelism):
    options = (
        *LORA,
        "trainable={vision: {}, projector: {lr: 0.003}, llm_lora: {weight_decay: 0.0}}",
        "weight_decay_of=matrices",
        "optimizer.eps=1e-4",
        "dataset.packed=false",
        "num_workers=0",
    )
    outputs = []
    for processes, kind in ((1, "replicate"), (2, parallelism)):
        output = f"{kind}{processes}"
        how = () if processes == 1 else (f"parallelism={kind}",)
        started = server.train(workspace, output, *options, *how, processes=processes)
        assert started.wait() == [0] * processes, started.printed()
        outputs.append(workspace.folder / output)
    one, two = map(tensors, outputs)
    assert [row["loss"] for row in log(outputs[0])] == pytest.approx([row["loss"] for row in log(outputs[1])], abs=1e-5)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-5)


def test_a_run_answers_with_its_adapters_and_without(workspace):
    output = workspace.train(*LORA, "trainable=[projector,llm_lora]", "optimizer.lr=0.05", "epochs=3")
    generator = open_run(output, ["device=cpu"])
    request = question_request(str(workspace.folder / "images/0.png"), "Is there a circle?")
    candidates = [["yes", "no"]]
    with_them = generator.score([request], candidates)[0].sums
    bare = open_run(output, ["device=cpu", "without=[llm_lora]"])
    without = bare.score([request], candidates)[0].sums
    assert with_them != pytest.approx(without, abs=1e-3)
    plain = replace(request, without=("llm_lora",))
    mixed = generator.score([request, plain], candidates * 2)
    assert mixed[0].sums == pytest.approx(with_them, abs=1e-5) and mixed[1].sums == pytest.approx(without, abs=1e-5)
    with pytest.raises(UserError, match=r"without=llm_lora: this model has no such component"):
        bare.generate([plain], Sampling(max_new_tokens=2))


def test_runs_with_adapters_share_no_language_model(workspace):
    first = workspace.train(*LORA, "trainable=[llm_lora]", "optimizer.lr=0.05", output="first")
    second = workspace.train("trainable=[projector]", output="second")
    request = question_request(str(workspace.folder / "images/0.png"), "Is there a circle?")
    alone = [open_run(run, ["device=cpu"]).score([request], [["yes", "no"]])[0].sums for run in (first, second)]
    together = [run.score([request], [["yes", "no"]])[0].sums for run in open_runs([first, second], ["device=cpu"])]
    assert together == alone


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("trainable.vision.lrr=1", "unknown key trainable.vision.lrr: did you mean trainable.vision.lr?"),
        ("trainable={vision: 3}", "trainable.vision holds further keys (lr, weight_decay), not 3"),
        ("trainable={llm: {}}", "trainable=['llm']: choose from vision, projector, llm_lora"),
        ("trainable={vision: {lr: -1}}", "trainable.vision.lr=-1.0 must be at least 0"),
        ("trainable=3", "trainable=3 must be a list of names, or a mapping from names to their keys"),
        ("trainable={}", "trainable=[]: choose from vision, projector, llm_lora"),
        ("trainable=[projector,llm_lora]", "trainable: this model has no llm_lora; add llm_lora._component_=medcap"),
        ("llm_lora.rank=0", "llm_lora.rank=0: it must be at least 1"),
        ("llm_lora.targets=[q_prj]", "llm_lora.targets=['q_prj']: choose all-linear, or from q_proj"),
        ("llm_lora.rnk=4", "unknown key llm_lora.rnk: did you mean llm_lora.rank?"),
        ("without=[llm_lora]", "without=llm_lora: this model has no such component that can be left out"),
        ("without=[projector]", "without=projector: this model has no such component that can be left out"),
    ],
)
def test_mistakes_are_one_line_before_weights_load(workspace, capsys, monkeypatch, given, message):
    monkeypatch.setattr("medcap.checkpoints.frozen_llm.TensorReader.read", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(SystemExit):
        workspace.train(given)
    assert message in capsys.readouterr().err.strip().splitlines()[-1]


def test_an_adapter_of_another_model_is_refused(workspace, capsys):
    output = workspace.train(*LORA, "trainable=[llm_lora]")
    file = latest_checkpoint(output) / "llm_lora.safetensors"
    found = load_file(file)
    name = "llm_lora.layers.0.attn.q_proj.lora_a.weight"
    save_file(found | {name: torch.zeros(4, 7)}, file)
    with pytest.raises(UserError, match=r"llm_lora.safetensors: tensor .*lora_a.weight has shape \[4, 7\], but"):
        open_run(output, ["device=cpu"])


def test_the_chat_does_without_adapters_on_request(workspace, monkeypatch, capsys):
    output = workspace.train(*LORA, "trainable=[llm_lora]", "optimizer.lr=0.05", "epochs=3")
    image = str(workspace.folder / "images/0.png")
    said = {}
    for words in ((), ("--without", "llm_lora"), ("without=[llm_lora]",)):
        monkeypatch.setattr("sys.stdin", io.StringIO("Is there a circle?\n"))
        assert main(["chat", str(output), "--image", image, "--max-new-tokens", "8", "device=cpu", *words]) == 0
        said[words] = capsys.readouterr().out
    assert said["--without", "llm_lora"] == said[("without=[llm_lora]",)] != said[()]
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(SystemExit):
        main(["chat", str(output), "--without", "lora", "device=cpu"])
    assert "without=lora: this model has no such component" in capsys.readouterr().err
