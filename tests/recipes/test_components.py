"""Every component of the registry: it alone changes when it alone trains, and it comes back as it was saved."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file

from helpers.every_component import MODEL, OPTIONS, component_workspace
from helpers.vision_checkpoints import write_hugging_face_folder
from medcap.checkpoints.atomic import latest_checkpoint
from medcap.cli import main
from medcap.models.component_registry import COMPONENTS, VISION_SIDE, further_components

STEP = ("max_steps_per_epoch=1", "lr_scheduler._component_=null")
# Each alone, each two, and all of them.
SUBSETS = [names for size in (1, 2, len(COMPONENTS)) for names in itertools.combinations(COMPONENTS, size)]


def test_every_component_is_tried_here():
    assert set(OPTIONS) == set(further_components())


def tensors(output):
    """Every tensor of a run's newest checkpoint, or of an imported run, by component and name."""
    step = latest_checkpoint(output) or output
    files = [step / "vision.safetensors", *(step / f"{name}.safetensors" for name in OPTIONS)]
    return {name: tensor for file in files if file.exists() for name, tensor in load_file(file).items()}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    workspace = component_workspace(tmp_path_factory.mktemp("components"))
    write_hugging_face_folder(workspace.folder / "tower", "clip")
    return workspace


@pytest.fixture(scope="module")
def start(place):
    """The weights before a step."""
    return tensors(place.train(*MODEL, "optimizer.lr=0", "trainable=[words]", output="start"))


def check_step(output, start, trained):
    """See that a step changed every component that trains, and nothing else."""
    changed = {name for name, tensor in tensors(output).items() if not torch.equal(tensor, start[name])}
    assert {name.partition(".")[0] for name in changed} == set(trained)
    for part in trained:
        unchanged = {name for name in start if name.startswith(f"{part}.")} - changed
        # A pooling head is of no use to patch tokens, and before the first step B is zero, so A has no gradient.
        assert all("lora_a" in name or part == "vision" for name in unchanged)
    found = json.loads((output / "summary.json").read_text())
    assert found["llm_sha256_before"] == found["llm_sha256_after"] is not None


@pytest.mark.parametrize("trained", SUBSETS, ids="+".join)
def test_a_step_changes_what_trains_and_nothing_else(place, start, trained):
    words = (*MODEL, f"trainable=[{','.join(trained)}]", *STEP)
    check_step(place.train(*words, output="+".join(trained)), start, trained)


@pytest.mark.processes
@pytest.mark.parametrize(
    ("trained", "parallelism"),
    [*(((name,), "shard") for name in COMPONENTS), (tuple(COMPONENTS), "replicate")],
    ids=lambda value: value if isinstance(value, str) else "+".join(value),
)
def test_so_does_a_step_of_two_processes(place, start, server, trained, parallelism):
    words = (*MODEL, f"trainable=[{','.join(trained)}]", *STEP, f"parallelism={parallelism}")
    output = f"{'+'.join(trained)}-{parallelism}"
    run = server.train(place, output, *words, processes=2)
    assert run.wait() == [0, 0], run.printed()
    check_step(place.folder / output, start, trained)


@pytest.mark.slow
def test_what_is_trained_is_exported_and_comes_back_equal(place, tmp_path):
    model = (*MODEL, f"vision={place.folder}/tower", "projector.num_image_tokens=null")
    run = place.train(*model, f"trainable=[{','.join(COMPONENTS)}]", "optimizer.lr=0.01", output="whole")
    words = [
        "export",
        str(run),
        "--out",
        str(tmp_path / "export"),
        "--adapters",
        "apart",
        "without=[box_decoder, mask_decoder, region_encoder]",
    ]
    assert main(words) == 0
    assert main(["import", str(tmp_path / "export"), "--out", str(tmp_path / "again")]) == 0
    expected, found = tensors(run), tensors(tmp_path / "again")
    unread = {name for name in expected.keys() - found.keys() if name.startswith(f"{VISION_SIDE[0]}.")}
    unread |= {name for name in expected if name.startswith(("box_decoder.", "mask_decoder.", "region_encoder."))}
    assert expected.keys() - found.keys() == unread, "only what no projector reads of a tower is left out"
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0, msg=name)
