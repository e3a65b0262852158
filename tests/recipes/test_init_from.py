"""A run that starts from an earlier one: what it takes, what starts fresh, and what its checkpoints remember."""

import json

import pytest
import torch
from safetensors.torch import load_file

from helpers.workspace import Workspace, tune
from medcap.checkpoints.atomic import latest_checkpoint

LORA = ("llm_lora.rank=4",)


@pytest.fixture(scope="module")
def align(tmp_path_factory):
    """A workspace whose run ``align`` has trained the projector."""
    workspace = Workspace(tmp_path_factory.mktemp("stages"))
    workspace.train("trainable=[projector]", output="align")
    return workspace


def tensors(output, file="vision"):
    return load_file(latest_checkpoint(output) / f"{file}.safetensors")


def history(output):
    return json.loads((latest_checkpoint(output) / "vision.json").read_text())["history"]


def refusal(workspace, capsys, *overrides, output="refused"):
    with pytest.raises(SystemExit) as ended:
        workspace.train(*overrides, output=output)
    assert ended.value.code == 2
    return capsys.readouterr().err


def test_what_the_run_has_goes_on_and_the_rest_starts_fresh(align, capfd):
    run = align.folder / "align"
    output = align.train(*LORA, f"init_from={run}", "trainable=[llm_lora]", "optimizer.lr=0", output="instruct")
    assert "vision, projector: go on from it; llm_lora: start fresh" in capfd.readouterr().err
    expected = tensors(run)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(output).items())
    adapters = tensors(output, "llm_lora")
    assert all(not tensor.any() for name, tensor in adapters.items() if "lora_b" in name)
    assert history(output) == [
        {"run": str(run), "step": 2, "trained": ["projector"], "data": [str(align.data)]},
        {"step": 2, "trained": ["llm_lora"], "data": [str(align.data)]},
    ]
    assert json.loads((output / "summary.json").read_text())["history"] == history(output)


def test_a_third_stage_goes_on_with_the_adapters_and_knows_both_runs_before_it(align, capfd):
    first, second = align.folder / "align", align.folder / "second"
    align.train(*LORA, f"init_from={first}", "trainable=[llm_lora,projector]", "optimizer.lr=0.05", output="second")
    third = align.train(*LORA, f"init_from={second}", "trainable=[projector]", "optimizer.lr=0", output="third")
    for file in ("vision", "llm_lora"):
        expected = tensors(second, file)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(third, file).items())
    assert [entry.get("run") for entry in history(third)] == [str(first), str(second), None]
    assert [entry["trained"] for entry in history(third)] == [["projector"], ["llm_lora", "projector"], ["projector"]]
    capfd.readouterr()
    bare = align.train(f"init_from={second}", "trainable=[projector]", "optimizer.lr=0", output="bare")
    assert "llm_lora: left out, as the configuration does not name them" in capfd.readouterr().err
    assert not (latest_checkpoint(bare) / "llm_lora.safetensors").exists()


def test_a_resumed_run_takes_its_own_weights_though_the_earlier_run_is_gone(align):
    first = align.train("trainable=[projector]", output="gone")
    options = (f"init_from={first}", "trainable=[projector]", "epochs=2")
    whole = align.train(*options, output="whole")
    align.train(*options, "epochs=1", output="resumed")
    first.rename(align.folder / "moved")
    align.train(*options, "resume_from_checkpoint=latest", output="resumed")
    assert history(align.folder / "resumed") == history(whole)
    expected = tensors(whole)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(align.folder / "resumed").items())


def test_the_tower_and_the_projector_are_the_runs_where_the_configuration_names_none(align):
    run = align.folder / "align"
    words = align.training(f"init_from={run}", "vision=null", "~projector", "optimizer.lr=0", output="unnamed")
    tune(*(word for word in words if not word.startswith("projector.")))
    expected = tensors(run)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in tensors(align.folder / "unnamed").items())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["vision={name: tiny, image_size: 16, stride: 8, width: 16}"], "brings its own tower, not vision=tiny"),
        (["projector.num_image_tokens=9"], "brings its own projector"),
        (["vision_checkpoint=align"], "give only one of them"),
    ],
)
def test_a_run_whose_components_do_not_fit_is_refused(align, capsys, overrides, message):
    run = align.folder / "align"
    told = refusal(align, capsys, f"init_from={run}", *overrides)
    assert message in told and f"init_from={run}" in told and "Traceback" not in told


def test_adapters_of_another_width_are_refused(align, capsys):
    run = align.train(*LORA, "trainable=[llm_lora]", output="rank4")
    told = refusal(align, capsys, "llm_lora.rank=8", f"init_from={run}", "trainable=[llm_lora]")
    assert f"init_from={run}: its llm_lora has {{'rank': 4}}" in told


def test_a_run_that_is_not_there_is_refused(align, capsys):
    assert "init_from: vision checkpoint nowhere does not exist" in refusal(align, capsys, "init_from=nowhere")
