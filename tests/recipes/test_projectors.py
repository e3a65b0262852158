"""Projectors on the way through training, resuming, opening: one without parameters, one behind several scales."""

import json

import pytest
import torch
from safetensors.torch import load_file

from helpers.workspace import tune
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.generation.run import open_run

pytestmark = pytest.mark.slow

OPTIONS = {
    "identity": ("projector=medcap.models.identity", "~projector.num_image_tokens"),
    "resampler": ("projector=medcap.models.resampler", "projector.num_image_tokens=9", "vision.scales=[1,2]"),
}
STEP = ("max_steps_per_epoch=1", "lr_scheduler._component_=null")


def train(workspace, name, *words):
    """Train with the projector alone that is named, without the options of the workspace's own."""
    own = "projector.num_image_tokens=4"
    tune(*(word for word in workspace.training(*OPTIONS[name], *STEP, *words, output=name) if word != own))
    return workspace.folder / name


@pytest.mark.parametrize(("name", "tokens"), [("identity", 4), ("resampler", 9)])
def test_a_projector_is_trained_resumed_and_opened(workspace, capsys, name, tokens):
    run = train(workspace, name, "epochs=2")
    shown = capsys.readouterr().err
    assert ("projector            has no parameters" in shown) == (name == "identity")
    step = latest_checkpoint(run)
    description = json.loads((step / "vision.json").read_text())
    assert description["num_image_tokens"] == tokens
    assert description["tower"].get("scales") == ([1, 2] if name == "resampler" else None)
    assert description["preprocess"]["image_size"] == (32 if name == "resampler" else 16)
    expected = load_file(step / "vision.safetensors")
    assert any(key.startswith("projector.") for key in expected) == (name == "resampler")
    train(workspace, name, "epochs=3", "resume_from_checkpoint=true")
    step = latest_checkpoint(run)
    model = open_run(run).model
    for key, value in load_file(step / "vision.safetensors").items():
        part, _, rest = key.partition(".")
        assert torch.equal(model.components[part].state_dict()[rest], value)


def test_a_projector_without_parameters_cannot_train_alone(workspace, capsys):
    with pytest.raises(SystemExit):
        train(workspace, "identity", "trainable=[projector]")
    assert "trainable=[projector]: this projector has no parameters" in capsys.readouterr().err
