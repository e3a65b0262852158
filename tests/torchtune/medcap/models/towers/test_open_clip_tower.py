import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from helpers.vision_checkpoints import NATIVE_VISION, write_open_clip_folder
from medcap.checkpoints.vision import plan_vision
from medcap.errors import UserError
from medcap.models.preprocess import CLIP_MEAN, CLIP_STD
from medcap.models.towers.base import TowerShape
from medcap.models.towers.registry import build_tower, resolve_tower

MLP = {"_component_": "medcap.models.mlp"}


def load(folder):
    return plan_vision(str(folder), None, MLP, 16).build()[0].eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("open_clip")
    write_open_clip_folder(folder / "timm")
    write_open_clip_folder(folder / "native", NATIVE_VISION, quick_gelu=True)
    return folder


@pytest.mark.slow
def test_biomedclip_has_its_151_tensors_and_86191872_parameters():
    source = resolve_tower("biomedclip", weights=False)
    with torch.device("meta"):
        tower = build_tower(source.spec, source.preprocess)
    state = tower.state_dict()
    assert len(state) == 151
    assert sum(tensor.numel() for tensor in state.values()) == 86_191_872
    assert {name.split(".")[0] for name in state} == {"trunk", "head"}
    assert state["head.proj.weight"].shape == (512, 768)
    assert tower.shape == TowerShape(196, 768, 512)
    assert tower.unused_parameters("patches") == {"head.proj.weight"}
    assert tower.unused_parameters("pooled") == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["timm", "native"])
def test_the_pooled_vector_is_open_clips_image_embedding(folders, name):
    theirs, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folders / name}")
    tower = load(folders / name)
    pixels = np.random.default_rng(0).integers(0, 256, (190, 230, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    assert torch.equal(tower.preprocess.normalize(tower.preprocess.transform()(image)), transform(image))
    images = torch.stack([transform(image), transform(image.transpose(Image.Transpose.ROTATE_90))])
    with torch.no_grad():
        torch.testing.assert_close(tower.encode_pooled(images), theirs.eval().encode_image(images))


@pytest.mark.slow
def test_patches_of_a_timm_trunk_are_its_normed_tokens_without_the_class_token(folders):
    tower = load(folders / "timm")
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        tokens = tower.trunk.norm(tower.trunk.forward_intermediates(images, norm=False)[0])
        expected = tower.trunk.forward_features(images)[:, 1:]
        assert torch.equal(tower.encode_patches(images), expected)
        assert tokens.shape[1] == expected.shape[1] + 1


def test_patches_of_the_native_transformer_come_before_the_final_norm(folders):
    tower = load(folders / "native")
    last = {}
    block = tower.visual.transformer.resblocks[-1]
    block.register_forward_hook(lambda _module, _inputs, output: last.update(output=output))
    with torch.no_grad():
        patches = tower.encode_patches(torch.randn(2, 3, 32, 32))
    assert patches.shape == (2, 16, 16)
    assert torch.equal(patches, last["output"][:, 1:])


def test_quick_gelu_of_the_configuration_is_used(folders):
    tower = load(folders / "native")
    assert type(tower.visual.transformer.resblocks[0].mlp.gelu).__name__ == "LeanQuickGELU"
    assert tower.spec["quick_gelu"] is True


@pytest.mark.slow
def test_the_text_half_is_neither_built_nor_read(folders, monkeypatch):
    def refuse(*_arguments, **_options):
        raise AssertionError("the text half was built")

    monkeypatch.setattr("open_clip.model._build_text_tower", refuse)
    plan = plan_vision(str(folders / "timm"), None, MLP, 16)
    plan.build()
    assert all(name.startswith(("trunk.", "head.")) for name in plan.tower_weights.names)


def test_patch_dropout_is_left_out_because_it_changes_the_number_of_tokens(tmp_path):
    write_open_clip_folder(tmp_path / "flip", {**NATIVE_VISION, "patch_dropout": 0.5})
    tower = load(tmp_path / "flip").train()
    assert tower.encode_patches(torch.randn(1, 3, 32, 32)).shape[1] == 16


@pytest.mark.slow
def test_a_folder_with_only_a_pickle_is_read_with_a_notice(tmp_path):
    state = write_open_clip_folder(tmp_path / "bin", as_pickle=True)
    plan = plan_vision(str(tmp_path / "bin"), None, MLP, 16)
    assert "weights-only" in plan.notices[0]
    assert torch.equal(plan.build()[0].state_dict()["head.proj.weight"], state["visual.head.proj.weight"])


def test_an_open_clip_name_takes_the_quick_gelu_of_its_tag():
    assert resolve_tower("open_clip:ViT-B-16:openai", weights=False).spec["quick_gelu"] is True
    assert resolve_tower("open_clip:ViT-B-16:laion2b_s34b_b88k", weights=False).spec["quick_gelu"] is False
    assert resolve_tower("ViT-B-16-SigLIP", weights=False).preprocess.resize_mode == "squash"


@pytest.mark.parametrize(
    ("name", "message"),
    [("open_clip:ViT-Z", "no model ViT-Z"), ("open_clip:ViT-B-16:nothing", "has the tags openai")],
)
def test_an_unknown_open_clip_name_or_tag_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        resolve_tower(name)


def test_a_folder_without_weights_or_with_a_broken_configuration_is_refused(tmp_path):
    write_open_clip_folder(tmp_path / "model")
    (tmp_path / "model" / "open_clip_model.safetensors").unlink()
    with pytest.raises(UserError, match=r"open_clip_model.safetensors"):
        resolve_tower(str(tmp_path / "model"))
    (tmp_path / "model" / "open_clip_config.json").write_text(json.dumps({"model_cfg": {}}))
    with pytest.raises(UserError, match="vision_cfg is missing"):
        resolve_tower(str(tmp_path / "model"))


def test_an_impossible_architecture_is_one_clear_line(tmp_path):
    config = {
        "model_cfg": {"embed_dim": 4, "vision_cfg": {"timm_model_name": "no_such_model"}},
        "preprocess_cfg": {"mean": 0},
    }
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    source = resolve_tower(str(tmp_path), weights=False)
    with pytest.raises(UserError, match="cannot be built"):
        build_tower(source.spec, source.preprocess)


def test_weights_of_another_size_are_refused_before_they_are_read(tmp_path):
    write_open_clip_folder(tmp_path / "model", NATIVE_VISION)
    path = tmp_path / "model" / "open_clip_config.json"
    config = json.loads(path.read_text())
    config["model_cfg"]["vision_cfg"]["layers"] = 3
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"tensor visual.transformer.resblocks.2.* is missing"):
        plan_vision(str(tmp_path / "model"), None, MLP, 16)
    config["model_cfg"]["vision_cfg"].update(layers=2, patch_size=4)
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"visual.* has shape \[.*\], but the open_clip tower needs"):
        plan_vision(str(tmp_path / "model"), None, MLP, 16)


@pytest.fixture
def described(tmp_path):
    """Resolve a folder of open_clip's that has this ``preprocess_cfg``."""

    def resolve(settings):
        vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
        config = {"model_cfg": {"embed_dim": 8, "vision_cfg": vision}, "preprocess_cfg": settings}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        return resolve_tower(str(tmp_path), weights=False).preprocess

    return resolve


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        ({"mean": 0, "std": 1}, (0, 0, 0), (1, 1, 1)),
        ({"mean": 0.0}, (0, 0, 0), CLIP_STD),
        ({"mean": [0, 0, 0], "std": None}, (0, 0, 0), CLIP_STD),
        ({"mean": None, "std": 0.5, "interpolation": None}, CLIP_MEAN, (0.5, 0.5, 0.5)),
    ],
)
def test_a_mean_of_zero_is_a_mean(described, settings, mean, std):
    assert (described(settings).mean, described(settings).std) == (mean, std)


@pytest.mark.parametrize("settings", [{}, None])
def test_a_file_without_preprocessing_is_refused_where_open_clip_takes_clips(described, settings):
    lacking = "bring a file with preprocess_cfg in it, or give vision.preprocess.mean, vision.preprocess.std"
    with pytest.raises(UserError, match=f"open_clip_config.json does not say .*{lacking}"):
        described(settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"std": 0}, "std=.* must be above 0"),
        ({"mean": []}, r"mean=\[\] must be three numbers, or one"),
        ({"mean": False}, "mean=False must be three numbers, or one"),
        ({"mode": "L"}, "mode='L': only RGB images can be used"),
        ({"resize_mode": "longest"}, "resize_mode='longest' must be shortest, squash or pad_corner"),
        ({"resize_mode": ""}, "resize_mode='' must be shortest, squash or pad_corner"),
    ],
)
def test_preprocessing_that_cannot_be_followed_is_refused(described, settings, words):
    with pytest.raises(UserError, match=f"open_clip_config.json: .*{words}"):
        described(settings)
