"""A component beside tower and projector takes the whole way: trained, saved, resumed, answered with, handed on."""

import json

import pytest
import torch
from pydantic.fields import FieldInfo
from safetensors.torch import load_file

from helpers.image_gain import ImageGain
from helpers.workspace import log
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.checkpoints.keys import ModelConfiguration, further_keys
from medcap.checkpoints.run import read_run
from medcap.errors import UserError
from medcap.export.formats import export_run
from medcap.export.model_card import model_card
from medcap.export.run_facts import read_facts
from medcap.generation.run import open_run
from medcap.models.component_registry import COMPONENTS
from medcap.training.keys import TrainingConfiguration

GAIN = ("image_gain._component_=helpers.image_gain.image_gain", "image_gain.start=1.5")
BOTH = "trainable=[projector,image_gain]"


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(COMPONENTS, "image_gain", ImageGain)
    kinds = (ModelConfiguration, TrainingConfiguration)
    for kind in kinds:
        annotation, default = further_keys()["image_gain"]
        kind.model_fields["image_gain"] = FieldInfo.from_annotated_attribute(annotation, default)
        kind.model_rebuild(force=True)
    yield
    for kind in kinds:
        del kind.model_fields["image_gain"]
        kind.model_rebuild(force=True)


def factors(folder):
    return load_file(latest_checkpoint(folder) / "image_gain.safetensors")["image_gain.factors"]


def test_it_is_trained_saved_and_named(workspace, capsys):
    output = workspace.train(*GAIN, BOTH)
    step = latest_checkpoint(output)
    assert {path.name for path in step.iterdir()} == {
        *("vision.safetensors", "vision.json", "image_gain.safetensors", "state", "COMPLETE")
    }
    described = json.loads((step / "vision.json").read_text())
    assert described["format_version"] == 2
    assert described["components"] == {"image_gain": {"_component_": "helpers.image_gain.image_gain", "start": 1.5}}
    assert not torch.equal(factors(output), torch.full((32,), 1.5))
    banner = capsys.readouterr().err
    assert "vision tower         frozen" in banner
    assert "image gain           trained              32 parameters  float32" in banner
    summary = json.loads((output / "summary.json").read_text())
    assert summary["llm_sha256_before"] == summary["llm_sha256_after"]


def test_it_stays_unchanged_where_it_is_not_trained(workspace):
    assert torch.equal(factors(workspace.train(*GAIN)), torch.full((32,), 1.5))


def test_a_resumed_run_is_the_undisturbed_one(workspace):
    whole = workspace.train(*GAIN, BOTH, "epochs=2", output="whole")
    again = workspace.train(*GAIN, BOTH, "epochs=2", "save_every_n_steps=1", output="again")
    resumed = workspace.train(
        *GAIN, BOTH, "epochs=2", f"resume_from_checkpoint={again}/checkpoint/step_000002", output="resumed"
    )
    assert log(resumed)[-1]["loss"] == log(whole)[-1]["loss"]
    assert torch.equal(factors(resumed), factors(whole))


def test_a_run_without_it_cannot_be_resumed_with_it(workspace, capsys):
    workspace.train(output="plain")
    with pytest.raises(SystemExit):
        workspace.train(*GAIN, "resume_from_checkpoint=latest", "epochs=2", output="plain")
    assert "holds vision, projector, but this model has vision, projector, image_gain" in capsys.readouterr().err


def test_the_runs_folder_alone_says_that_it_is_there(workspace):
    output = workspace.train(*GAIN, BOTH)
    model = open_run(output).model
    assert torch.equal(model.components["image_gain"].factors.detach(), factors(output))


def test_a_format_without_a_place_for_it_refuses_it(workspace):
    output = workspace.train(*GAIN, BOTH, "projector=medcap.models.pooled_mlp")
    with pytest.raises(UserError, match="--format medcap: the run has the component image_gain, which this format has"):
        export_run(output, workspace.folder / "out", format="medcap")


def test_it_is_on_the_model_card(workspace):
    output = workspace.train(*GAIN, BOTH)
    card = model_card(read_facts(output, read_run(output)), "vision")
    assert "| image gain | starts at 1.5 | yes |" in card and "| vision tower | tiny, 16 x 16 pixels | no |" in card


def test_trainable_names_only_what_the_model_has(workspace, capsys):
    with pytest.raises(SystemExit):
        workspace.train(BOTH)
    assert "trainable: this model has no image_gain" in capsys.readouterr().err
