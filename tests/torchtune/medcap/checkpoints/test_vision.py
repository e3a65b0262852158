import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers.vision_checkpoints import (
    NATIVE_VISION,
    write_hugging_face_folder,
    write_meta_model,
    write_open_clip_folder,
)
from medcap.checkpoints.vision import check_llm, plan_vision, plan_vision_of_run
from medcap.checkpoints.vision_files import read_vision_checkpoint, save_components, save_meta_model
from medcap.errors import UserError
from medcap.models.projectors.base import build_projector
from medcap.models.towers import registry
from medcap.models.towers.base import TowerShape
from medcap.models.towers.registry import build_tower, resolve_tower
from medcap.models.towers.tensor_files import TensorFiles

TINY = {"name": "tiny", "image_size": 32, "width": 32, "depth": 1, "heads": 2, "pooled_dim": 12}
MLP = {"_component_": "medcap.models.mlp"}
POOLED = {"_component_": "medcap.models.pooled_mlp", "num_image_tokens": 3}
LLM = {"fingerprint": "0123456789abcdef", "dim": 16, "component": "torchtune.models.llama3_1.llama3_1_8b"}


def tensors_of(tower, projector):
    return {**{f"t.{k}": v for k, v in tower.state_dict().items()}, **projector.state_dict()}


def assert_equal(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    parts = plan_vision(TINY, None, MLP, 16).build()
    save_components(tmp_path / "saved", [part.state() for part in parts], LLM)
    return tmp_path / "saved", parts


@pytest.mark.parametrize("projector", [MLP, {**MLP, "num_image_tokens": 4}, POOLED])
def test_saving_and_loading_gives_bit_equal_tensors(tmp_path, projector):
    torch.manual_seed(0)
    tower, built = plan_vision(TINY, None, projector, 16).build()
    save_components(tmp_path, [tower.state(), built.state()], LLM)
    plan = plan_vision(None, str(tmp_path), MLP, 16)
    again = plan.build()
    assert_equal(tensors_of(tower, built), tensors_of(*again))
    assert plan.num_image_tokens == built.num_image_tokens and plan.projector_config == projector
    images = torch.randn(2, 3, 32, 32)
    encode = again[0].encode_patches if built.takes == "patches" else again[0].encode_pooled
    expected = tower.encode_patches(images) if built.takes == "patches" else tower.encode_pooled(images)
    assert torch.equal(again[1](encode(images)), built(expected))


@pytest.mark.slow
def test_every_kind_of_tower_comes_back_from_its_checkpoint_without_its_base_files(tmp_path):
    write_open_clip_folder(tmp_path / "open_clip", NATIVE_VISION)
    write_hugging_face_folder(tmp_path / "clip", "clip")
    for name in ("open_clip", "clip"):
        parts = plan_vision(str(tmp_path / name), None, MLP, 16).build()
        save_components(tmp_path / f"{name}_saved", [part.state() for part in parts], LLM)
        for file in (tmp_path / name).iterdir():
            file.unlink()
        plan = plan_vision(str(tmp_path / name), str(tmp_path / f"{name}_saved"), MLP, 16)
        again = plan.build()
        assert_equal(tensors_of(*parts), tensors_of(*again))
        images = torch.randn(1, 3, 32, 32)
        assert torch.equal(parts[0].encode_patches(images), again[0].encode_patches(images))


def test_loaded_weights_are_fp32_and_can_be_trained(saved):
    torch.set_default_dtype(torch.bfloat16)
    try:
        tower, projector = plan_vision(None, str(saved[0]), MLP, 16).build()
    finally:
        torch.set_default_dtype(torch.float32)
    for parameter in [*tower.parameters(), *projector.parameters()]:
        assert parameter.dtype == torch.float32 and parameter.requires_grad and not parameter.is_meta


def test_random_weights_follow_torchs_seed():
    plan = plan_vision(TINY, None, MLP, 16)
    torch.manual_seed(5)
    first = tensors_of(*plan.build())
    torch.manual_seed(5)
    assert_equal(first, tensors_of(*plan.build()))


def test_planning_reads_no_weights_and_touches_no_random_state(saved, monkeypatch):
    before = torch.get_rng_state()
    monkeypatch.setattr(TensorFiles, "read", lambda _self: pytest.fail("weights were read"))
    plan = plan_vision(None, str(saved[0]), MLP, 16)
    assert plan.shape == TowerShape(16, 32, 12) and plan.num_image_tokens == 16
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
def test_a_checkpoint_brings_its_own_parts_and_says_so_where_the_configuration_differs(saved):
    folder, _ = saved
    same = plan_vision(TINY, str(folder), MLP, 16)
    assert same.notices == []
    other = plan_vision("biomedclip", str(folder), POOLED, 16)
    assert other.tower_spec == same.tower_spec and other.projector_config == MLP
    assert "vision=biomedclip is not used" in other.notices[0]
    assert "medcap.models.pooled_mlp(num_image_tokens=3) is not used" in other.notices[1]
    assert plan_vision(None, str(folder), {**MLP, "num_image_tokens": 16}, 16).notices == []
    assert len(plan_vision(None, str(folder), {**MLP, "num_image_tokens": 4}, 16).notices) == 1


@pytest.mark.slow
def test_base_weights_are_not_resolved_when_a_checkpoint_is_given(saved, monkeypatch):
    monkeypatch.setattr(registry, "fetch", lambda *_arguments: pytest.fail("a download was tried"))
    for vision in ("siglip", "owner/model", "./models/gone", "open_clip:ViT-B-16"):
        assert len(plan_vision(vision, str(saved[0]), MLP, 16).notices) == 1


@pytest.mark.slow
def test_a_saved_folder_as_vision_gives_its_tower_and_a_new_projector(saved):
    folder, (tower, projector) = saved
    for name in (str(folder), str(folder / "vision.safetensors"), {"name": str(folder)}):
        plan = plan_vision(name, None, {**MLP, "num_image_tokens": 4}, 24)
        again, fresh = plan.build()
        assert_equal(tower.state_dict(), again.state_dict())
        assert fresh.num_image_tokens == 4 and fresh[2].out_features == 24
    assert projector.num_image_tokens == 16


def test_another_language_model_is_a_notice(saved):
    plan = plan_vision(None, str(saved[0]), MLP, 16)
    check_llm(plan, LLM["fingerprint"])
    assert plan.notices == []
    check_llm(plan, "f" * 64)
    assert "trained on another language model" in plan.notices[0]
    fresh = plan_vision(TINY, None, MLP, 16)
    check_llm(fresh, "f" * 64)
    assert fresh.notices == []


def test_a_projector_for_a_wider_language_model_is_refused(saved):
    with pytest.raises(UserError) as caught:
        plan_vision(None, str(saved[0]), MLP, 8)
    message = str(caught.value)
    assert "vision.safetensors: tensor projector.0.weight has shape [16, 32]" in message
    assert "language model of width 8 needs [8, 32]" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("vision.norm.bias"), r"vision.safetensors: tensor norm.bias \[32\] of the tiny tower"),
        (lambda state: state.update({"vision.new": torch.ones(2)}), r"tensor vision.new with shape \[2\] has no place"),
        (lambda state: state.update({"vision.norm.bias": torch.ones(3)}), r"norm.bias has shape \[3\].* needs \[32\]"),
        (lambda state: state.update({"other.x": torch.ones(2)}), "other.x is neither vision"),
        (lambda state: [state.pop(f"projector.{name}") for name in ("0.bias", "2.bias")], "0.bias .* is missing"),
    ],
)
def test_tensors_that_do_not_fit_are_named_before_anything_is_loaded(saved, change, message, monkeypatch):
    path = saved[0] / "vision.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    monkeypatch.setattr(TensorFiles, "read", lambda _self: pytest.fail("weights were read"))
    with pytest.raises(UserError, match=message):
        plan_vision(None, str(saved[0]), MLP, 16)


def test_a_description_that_contradicts_its_projector_is_refused(saved):
    path = saved[0] / "vision.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_image_tokens": 9}))
    with pytest.raises(UserError, match="num_image_tokens=9, but its projector gives 16"):
        plan_vision(None, str(saved[0]), MLP, 16)


def test_nothing_named_is_refused():
    with pytest.raises(UserError, match="vision is missing"):
        plan_vision(None, None, MLP, 16)


@pytest.mark.slow
def test_medcaps_own_model_has_927358720_parameters_in_155_tensors():
    source = resolve_tower("biomedclip", weights=False)
    plan = plan_vision({"name": "biomedclip", "pretrained": False}, None, {**POOLED, "num_image_tokens": 50}, 4096)
    with torch.device("meta"):
        visual = build_tower(source.spec, source.preprocess).state_dict()
        built = build_projector(plan.projector_config, plan.shape, 4096)
    assert (len(visual), len(built.state_dict())) == (151, 4)
    shapes = [*visual.values(), *built.state_dict().values()]
    assert sum(math.prod(tensor.shape) for tensor in shapes) == 927_358_720


@pytest.fixture
def meta_model(tmp_path):
    """A file of medcap and the open_clip folder with its tower's architecture."""
    state = write_open_clip_folder(tmp_path / "base")
    visual = {k.removeprefix("visual."): v for k, v in state.items() if k.startswith("visual.")}
    content = write_meta_model(tmp_path / "meta_model_4.pt", visual, llm_dim=16, num_image_tokens=5)
    (tmp_path / "base" / "open_clip_model.safetensors").unlink()
    return tmp_path / "meta_model_4.pt", str(tmp_path / "base"), content


@pytest.mark.slow
def test_medcaps_checkpoint_is_loaded_with_its_projector(meta_model):
    path, base, content = meta_model
    plan = plan_vision(base, str(path), MLP, 16)
    assert plan.num_image_tokens == 5
    assert plan.projector_config == {"_component_": "medcap.models.pooled_mlp", "num_image_tokens": 5}
    assert "medcap.models.mlp() is not used" in plan.notices[0]
    tower, projector = plan.build()
    assert_equal(tower.state_dict(), {k: v.float() for k, v in content["visual"].items()})
    assert_equal(dict(projector.state_dict()), {k: v.float() for k, v in content["projector"].items()})
    assert set(tower.state_dict()) == set(content["visual"])


@pytest.mark.slow
def test_medcaps_projector_needs_no_notice_when_the_configuration_named_it(meta_model):
    path, base, _ = meta_model
    assert plan_vision(base, str(path), {**POOLED, "num_image_tokens": 5}, 16).notices == []
    assert "num_image_tokens=3) is not used" in plan_vision(base, str(path), POOLED, 16).notices[0]


def test_a_meta_model_written_here_is_read_again(tmp_path):
    torch.manual_seed(0)
    tower, projector = plan_vision(TINY, None, {**POOLED, "hidden_dim": 8}, 16).build()
    path = tmp_path / "meta_model_last.pt"
    save_meta_model(path, tower.state(), projector.state(), dtype=torch.float32)
    again = plan_vision(TINY, str(path), {**POOLED, "hidden_dim": 8}, 16).build()
    assert_equal(tensors_of(tower, projector), tensors_of(*again))


def test_medcaps_checkpoint_for_another_width_is_refused(meta_model):
    path, base, _ = meta_model
    with pytest.raises(
        UserError, match=r"projector.2.weight \[80, 16\] belong to a language model of width 16.* has 8"
    ):
        plan_vision(base, str(path), MLP, 8)


@pytest.mark.slow
def test_medcaps_checkpoint_needs_a_tower_that_fits(meta_model):
    path, _, _ = meta_model
    with pytest.raises(UserError, match="name it too, such as vision=biomedclip"):
        plan_vision(None, str(path), MLP, 16)
    with pytest.raises(UserError, match=r"meta_model_4.pt: tensor visual.* has shape"):
        plan_vision("biomedclip", str(path), MLP, 16)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"visual": {"a": torch.ones(1)}}, r"no tensor named projector\.\*"),
        ({"model": {"a": torch.ones(1)}}, r"no tensor named visual\.\*"),
        ({"visual": {"a": torch.ones(1)}, "projector": {"0.weight": torch.ones(1)}}, "this is no meta_model file"),
        (
            {"visual": {"a": torch.ones(1)}, "projector": {"b": torch.ones(1)}, "epoch": torch.ones(1)},
            "epoch is neither",
        ),
    ],
)
def test_a_pickle_of_another_layout_is_refused(tmp_path, content, message):
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(UserError, match=message):
        plan_vision("biomedclip", str(tmp_path / "model.pt"), MLP, 16)


@pytest.mark.parametrize("key", ["vision", "vision_checkpoint"])
def test_a_saved_vision_side_that_is_not_finite_is_refused(saved, key):
    file = saved[0] / "vision.safetensors"
    tensors = load_file(file)
    name = next(name for name in sorted(tensors) if name.startswith("vision.") and tensors[name].ndim > 1)
    tensors[name].view(-1)[0] = math.nan
    save_file(tensors, file)
    plan = plan_vision(**{"vision": None, "vision_checkpoint": None, key: str(saved[0])}, projector=MLP, llm_dim=16)
    with pytest.raises(UserError, match=rf"vision\.safetensors: 1 of .* values of tensor {name} are NaN or infinite"):
        plan.build()


def test_empty_tensors_tell_their_reason(saved):
    file = saved[0] / "vision.safetensors"
    save_file(load_file(file) | {"projector.0.weight": torch.ones(0)}, file)
    with pytest.raises(UserError, match=r"projector\.0\.weight has shape \[0\].*it is empty, as DeepSpeed's ZeRO-3"):
        plan_vision(None, str(saved[0]), MLP, 16)


@pytest.fixture
def tiled(tmp_path):
    """A checkpoint with tiles."""
    parts = plan_vision({**TINY, "tiles": 4}, None, MLP, 16).build()
    save_components(tmp_path / "tiled", [part.state() for part in parts], LLM)
    return tmp_path / "tiled"


def test_tiles_are_a_part_of_the_checkpoint_that_any_tower_can_have(saved, tiled, tmp_path):
    write_hugging_face_folder(tmp_path / "siglip", "siglip")
    assert plan_vision({"name": str(tmp_path / "siglip"), "tiles": 3}, None, MLP, 16).preprocess.tiles == 3
    assert json.loads((tiled / "vision.json").read_text())["preprocess"]["tiles"] == 4
    assert "tiles" not in (saved[0] / "vision.json").read_text()
    assert plan_vision(None, str(tiled), MLP, 16).preprocess.tiles == 4
    assert plan_vision(str(tiled), None, MLP, 16).preprocess.tiles == 4  # its tower alone
    assert plan_vision({"name": str(tiled), "tiles": 6}, None, MLP, 16).preprocess.tiles == 6


@pytest.mark.parametrize(
    ("vision", "tiles"), [(None, 4), (TINY, 4), ({**TINY, "tiles": 2}, 2), ({"tiles": 0}, 0), ({"tiles": 3}, 3)]
)
def test_the_configuration_may_change_the_tiles_of_a_checkpoint(tiled, vision, tiles):
    plans = [
        plan_vision(vision, str(tiled), MLP, 16),
        plan_vision_of_run(read_vision_checkpoint(tiled / "vision.safetensors"), "init_from=x", vision, None, 16),
    ]
    assert [plan.preprocess.tiles for plan in plans] == [tiles] * 2
    assert [plan.notices for plan in plans] == [[], []]


def test_impossible_tiles_name_their_key():
    with pytest.raises(UserError, match=r"vision.tiles=1 must be a whole number from 2, or 0 for none"):
        plan_vision({**TINY, "tiles": 1}, None, MLP, 16)
    with pytest.raises(UserError, match=r"vision is missing"):
        plan_vision({"tiles": 2}, None, MLP, 16)
