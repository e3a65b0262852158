import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from medcap.checkpoints.vision import plan_vision
from medcap.errors import UserError
from medcap.models.towers import hub
from medcap.models.towers.base import TowerShape
from medcap.models.towers.registry import build_tower, resolve_tower
from medcap.models.towers.timm_tower import features_to_tokens

MLP = {"_component_": "medcap.models.mlp"}
HALVES = {"mean": [0.5] * 3, "std": [0.5] * 3}


def random_tower(name, **options):
    source = resolve_tower({"name": f"timm:{name}", "pretrained": False, **options})
    return build_tower(source.spec, source.preprocess).eval()


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*_arguments):
        raise ConnectionError("no network")

    monkeypatch.setattr(hub, "_fetch_cached", lambda *_arguments: None)
    monkeypatch.setattr(hub, "_probe", refuse)


def test_a_vision_transformer_gives_its_tokens_without_prefix():
    tower = random_tower("test_vit")
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        assert torch.equal(tower.encode_patches(images), tower.trunk.forward_features(images)[:, 1:])
        torch.testing.assert_close(tower.encode_pooled(images), tower.trunk(images))


@pytest.mark.slow
def test_a_small_input_size_can_be_asked_for_with_random_weights():
    tower = random_tower("vit_tiny_patch16_224", image_size=32)
    assert tower.shape == TowerShape(4, 192, 192)
    assert tower.preprocess.image_size == 32


def test_a_convolution_network_gives_its_feature_map_row_by_row():
    tower = random_tower("test_convnext")
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        features = tower.trunk.forward_features(images)
        patches = tower.encode_patches(images)
    assert patches.shape == (1, 25, 64)
    assert torch.equal(patches[0, 1 * 5 + 3], features[0, :, 1, 3])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("swin_tiny_patch4_window7_224", TowerShape(49, 768, 768)),
        ("vit_small_patch14_reg4_dinov2", TowerShape(1369, 384, 384)),
        ("vit_small_patch16_dinov3", TowerShape(256, 384, 384)),  # a class token and four registers are dropped
        ("naflexvit_base_patch16_siglip.v2_webli", TowerShape(576, 768, 768)),  # SigLIP 2 for any shape, on squares
    ],
)
def test_shapes_of_families_are_known_without_building_them(name, shape):
    source = resolve_tower(f"timm:{name}", weights=False)
    with torch.device("meta"):
        assert build_tower(source.spec, source.preprocess).shape == shape


def test_mean_and_interpolation_come_from_the_pretrained_configuration():
    preprocess = resolve_tower("timm:vit_small_patch16_224.augreg_in1k", weights=False).preprocess
    assert preprocess.mean == (0.5, 0.5, 0.5) and preprocess.interpolation == "bicubic"
    assert preprocess.resize_mode == "shortest"


def test_a_name_without_a_network_says_what_to_download(no_network):
    with pytest.raises(UserError) as caught:
        resolve_tower("timm:test_vit")
    message = str(caught.value)
    assert "hf download timm/test_vit.r160_in1k --local-dir ./models/test_vit.r160_in1k" in message
    assert "vision=./models/test_vit.r160_in1k" in message and "\n" not in message


@pytest.mark.slow
def test_a_timm_folder_is_loaded_without_its_classifier(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("test_vit", pretrained=False).eval()
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    settings = {
        "tag": "r160_in1k",
        "input_size": [3, 160, 160],
        "classifier": "head",
        "mean": [0.1, 0.2, 0.3],
        "std": 1,
    }
    config = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": settings}
    (tmp_path / "config.json").write_text(json.dumps(config))
    plan = plan_vision(str(tmp_path), None, MLP, 16)
    tower, _ = plan.build()
    images = torch.randn(1, 3, 160, 160)
    with torch.no_grad():
        expected = model.forward_features(images)[:, 1:]
        torch.testing.assert_close(tower.eval().encode_patches(images), expected)
    assert plan.preprocess.mean == (0.1, 0.2, 0.3) and plan.tower_spec["name"] == "test_vit.r160_in1k"


@pytest.mark.slow
def test_buffers_that_no_file_holds_are_computed(tmp_path):
    model = timm.create_model("eva02_tiny_patch14_224", pretrained=False, num_classes=0).eval()
    assert {name for name, _ in model.named_buffers()} - set(model.state_dict())
    save_file(model.state_dict(), tmp_path / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "eva02_tiny_patch14_224", **HALVES}))
    tower, _ = plan_vision(str(tmp_path), None, MLP, 16).build()
    images = torch.randn(1, 3, 224, 224)
    with torch.no_grad():
        expected = model.forward_features(images)[:, 1:]
        torch.testing.assert_close(tower.eval().encode_patches(images), expected)


@pytest.mark.parametrize(
    ("name", "message"),
    [("timm:no_such_model", "knows no model"), ("timm:test_vit.no_such_tag", "Invalid pretrained tag")],
)
def test_an_unknown_name_or_tag_is_refused(name, message):
    with pytest.raises(UserError, match=message):
        resolve_tower(name)


def test_a_model_without_one_feature_map_is_refused():
    with pytest.raises(UserError, match="the timm model Identity gives neither tokens nor one feature map"):
        features_to_tokens(torch.nn.Identity(), [torch.zeros(1, 4, 4)])


@pytest.mark.slow
def test_a_folder_says_its_image_size_its_pooling_and_that_images_are_squashed(tmp_path):
    config = {
        "architecture": "test_vit",
        "model_args": {"img_size": [96, 96], "global_pool": "avg", "fc_norm": False, "checkpoint_path": "any.pth"},
        "pretrained_cfg": {**HALVES, "input_size": [3, 96, 96], "crop_mode": "squash"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = resolve_tower(str(tmp_path), weights=False)
    pooling = {"global_pool": "avg", "fc_norm": False}
    assert source.spec == {"kind": "timm", "name": "test_vit", "image_size": 96, "pooling": pooling}
    assert (source.preprocess.image_size, source.preprocess.resize_mode) == (96, "squash")
    tower = build_tower(source.spec, source.preprocess)
    assert tower.trunk.global_pool == "avg" and tower.shape.num_patches == 36


def timm_folder(folder, settings, **model_args):
    config = {"architecture": "test_vit", "model_args": model_args, "pretrained_cfg": {**HALVES, **settings}}
    (folder / "config.json").write_text(json.dumps(config))
    return resolve_tower(str(folder), weights=False)


@pytest.mark.parametrize(
    ("settings", "mean", "std"),
    [
        ({"mean": 0, "std": 1}, (0, 0, 0), (1, 1, 1)),
        ({"mean": [0, 0, 0], "std": [1, 1, 1]}, (0, 0, 0), (1, 1, 1)),
        ({"mean": [0.1, 0, 0]}, (0.1, 0, 0), (0.5, 0.5, 0.5)),
    ],
)
def test_a_mean_of_zero_is_a_mean(tmp_path, settings, mean, std):
    preprocess = timm_folder(tmp_path, settings).preprocess
    assert (preprocess.mean, preprocess.std) == (mean, std)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"crop_mode": "border"}, "crop_mode='border' is not done here; only center and squash are"),
        ({"interpolation": "lanczos"}, "interpolation='lanczos' must be bicubic or bilinear"),
        ({"input_size": [1, 160, 160]}, r"input_size=\[1, 160, 160\] cannot be used"),
        ({"input_size": [3, 160, 96]}, r"input_size=\[3, 160, 96\] cannot be used"),
        ({"input_size": 0}, "input_size=0 cannot be used"),
        ({"std": 0}, "std=.* must be above 0"),
        ({"mean": []}, r"mean=\[\] must be three numbers, or one"),
    ],
)
def test_preprocessing_that_cannot_be_followed_is_refused(tmp_path, settings, words):
    with pytest.raises(UserError, match=f"config.json: .*{words}"):
        timm_folder(tmp_path, settings)


@pytest.mark.parametrize("settings", [{"mean": None}, {"std": None}])
def test_a_mean_or_deviation_that_is_left_out_is_not_guessed(tmp_path, settings):
    with pytest.raises(UserError, match="bring a file with mean and std in its pretrained_cfg, or give vision"):
        timm_folder(tmp_path, settings)


def test_an_image_size_of_zero_is_refused():
    with pytest.raises(UserError, match="image_size=0 must be one positive whole number"):
        resolve_tower({"name": "timm:test_vit", "pretrained": False, "image_size": 0})


def test_the_crop_that_is_left_out_is_reported(tmp_path):
    assert timm_folder(tmp_path, {"crop_pct": 1.0}).notices == []
    (notice,) = timm_folder(tmp_path, {"crop_pct": 0.9}).notices
    assert notice.startswith(f"{tmp_path / 'config.json'}: the crop of timm (crop_pct=0.9) is left out")


def test_a_model_saved_without_pooling_has_no_pooled_vector(tmp_path):
    source = timm_folder(tmp_path, {"input_size": [3, 160, 160]}, global_pool="")
    assert source.spec["pooling"] == {"global_pool": ""}
    tower = build_tower(source.spec, source.preprocess)
    assert not tower.has_pooled and tower.shape.pooled_dim == 0 and tower.shape.num_patches == 100
    with pytest.raises(UserError, match="was saved without pooling"):
        tower.encode_pooled(torch.zeros(1, 3, 160, 160))
