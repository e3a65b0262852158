import json

import pytest
import torch
from safetensors import safe_open

from medcap.checkpoints.atomic import atomic_folder, point_latest
from medcap.checkpoints.vision import plan_vision
from medcap.checkpoints.vision_files import (
    find_vision_checkpoint,
    read_vision_checkpoint,
    save_components,
    save_meta_model,
)
from medcap.errors import UserError

TINY = {"name": "tiny", "image_size": 32, "width": 32, "depth": 1, "heads": 2, "pooled_dim": 12}
MLP = {"_component_": "medcap.models.mlp", "num_image_tokens": 4}
POOLED = {"_component_": "medcap.models.pooled_mlp", "num_image_tokens": 3}
LLM = {"fingerprint": "0123456789abcdef", "dim": 16, "component": "torchtune.models.llama3_1.llama3_1_8b"}


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return plan_vision(TINY, None, MLP, 16).build()


def test_saved_files_hold_fp32_tensors_and_their_description(tmp_path, parts):
    tower, projector = parts
    save_components(tmp_path, [tower.to(torch.bfloat16).state(), projector.state()], LLM)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vision.json", "vision.safetensors"]
    with safe_open(tmp_path / "vision.safetensors", framework="pt") as file:
        names = set(file.keys())
        assert all(file.get_tensor(name).dtype == torch.float32 for name in names)
    assert names == {f"vision.{name}" for name in tower.state_dict()} | {
        f"projector.{name}" for name in projector.state_dict()
    }
    description = json.loads((tmp_path / "vision.json").read_text())
    assert description["format_version"] == 1 and description["num_image_tokens"] == 4
    assert description["tower"]["kind"] == "tiny" and description["projector"] == MLP
    assert description["preprocess"]["resize_mode"] == "squash" and description["llm"] == LLM


def test_a_projector_under_its_former_name_is_read(tmp_path):
    ppc = {"_component_": "medcap.models.ppc", "levels": [2, 1]}
    tower, projector = plan_vision(TINY, None, ppc, 16).build()
    save_components(tmp_path, [tower.state(), projector.state()], LLM)
    path = tmp_path / "vision.json"
    path.write_text(path.read_text().replace("medcap.models.ppc", "medcap.models.pyramid"))
    plan = plan_vision(None, str(tmp_path), ppc, 16)
    assert plan.projector_config == ppc and plan.notices == []


def test_every_way_to_name_a_checkpoint_finds_its_weights(tmp_path, parts):
    step = tmp_path / "run" / "checkpoint" / "step_000007"
    with atomic_folder(step) as temporary:
        save_components(temporary, [part.state() for part in parts], LLM)
    point_latest(step)
    weights = step / "vision.safetensors"
    for path in (tmp_path / "run", step.parent, step, weights):
        assert find_vision_checkpoint(path) == weights
    assert find_vision_checkpoint(step.parent / "latest").resolve() == weights
    (step.parent / "latest").unlink()
    (step.parent / "latest").write_text("step_000007\n")
    assert find_vision_checkpoint(step.parent / "latest") == weights


def test_an_incomplete_step_is_ignored_or_refused_by_name(tmp_path, parts):
    for step in (5, 6):
        with atomic_folder(tmp_path / f"step_{step:06d}") as temporary:
            save_components(temporary, [part.state() for part in parts], LLM)
    (tmp_path / "step_000006" / "COMPLETE").unlink()
    assert find_vision_checkpoint(tmp_path).parent.name == "step_000005"
    with pytest.raises(UserError, match=r"step_000006 was not written completely .*step_000005"):
        find_vision_checkpoint(tmp_path / "step_000006")


def test_a_folder_that_is_not_a_step_needs_no_marker(tmp_path, parts):
    save_components(tmp_path / "handed_on", [part.state() for part in parts], LLM)
    assert find_vision_checkpoint(tmp_path / "handed_on").name == "vision.safetensors"


def test_something_that_is_not_a_checkpoint_is_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        find_vision_checkpoint(tmp_path / "nothing")
    with pytest.raises(UserError, match="a base model's folder goes into vision="):
        find_vision_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, "format_version 3 is unknown here"),
        ({"tower": None}, "tower is missing or damaged"),
        ({"preprocess": {"image_size": "x"}}, "vision.json: preprocess: image_size='x'"),
    ],
)
def test_a_description_that_cannot_be_followed_is_refused(tmp_path, parts, change, message):
    save_components(tmp_path, [part.state() for part in parts], LLM)
    path = tmp_path / "vision.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        read_vision_checkpoint(tmp_path / "vision.safetensors")


def test_missing_or_damaged_files_are_refused(tmp_path, parts):
    save_components(tmp_path, [part.state() for part in parts], LLM)
    (tmp_path / "vision.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match=r"vision.safetensors is missing or damaged"):
        read_vision_checkpoint(tmp_path / "vision.safetensors")
    (tmp_path / "vision.json").unlink()
    with pytest.raises(UserError, match=r"vision.json does not exist"):
        read_vision_checkpoint(tmp_path / "vision.safetensors")


def test_a_meta_model_is_bf16_under_medcaps_keys(tmp_path):
    tower, projector = plan_vision(TINY, None, POOLED, 16).build()
    save_meta_model(tmp_path / "meta_model_0.pt", tower.state(), projector.state())
    content = torch.load(tmp_path / "meta_model_0.pt", weights_only=True)
    assert set(content) == {"visual", "projector"}
    assert list(content["projector"]) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert all(tensor.dtype == torch.bfloat16 for tensor in content["visual"].values())
    assert [path.name for path in tmp_path.iterdir()] == ["meta_model_0.pt"]


def test_a_meta_model_holds_no_other_projector(tmp_path, parts):
    with pytest.raises(UserError, match=r"can only hold projector=medcap.models.pooled_mlp"):
        save_meta_model(tmp_path / "meta_model_0.pt", *(part.state() for part in parts))
