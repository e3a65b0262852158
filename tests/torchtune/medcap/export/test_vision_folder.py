import json
from dataclasses import replace

import numpy as np
import open_clip
import pytest
import timm
import torch
import transformers
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from helpers.encoder_folders import ENCODERS
from helpers.vision_checkpoints import NATIVE_VISION, TIMM_VISION, write_hugging_face_folder, write_open_clip_folder
from medcap.checkpoints.vision import plan_vision
from medcap.errors import UserError
from medcap.export.vision_folder import write_vision_folder

MLP = {"_component_": "medcap.models.mlp"}
# Height and width of images; none leaves a margin that transformers and this project cut one pixel apart.
SIZES = ((70, 50), (50, 70), (33, 33), (160, 400))


def load(vision):
    return plan_vision(vision if isinstance(vision, dict) else str(vision), None, MLP, 16).build()[0].eval()


def tuned(vision):
    """An encoder that is no longer what it began from."""
    tower = load(vision)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
    return tower


def write(tower, folder, text_from=None):
    folder.mkdir(exist_ok=True)
    return write_vision_folder(tower, folder, text_from)


def images():
    generator = np.random.default_rng(0)
    return [Image.fromarray(generator.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in SIZES]


def pixels(tower, image):
    return tower.preprocess.normalize(tower.preprocess.transform()(image)[None])


def check_same_tensors(tower, folder):
    again = load(folder)
    assert again.preprocess == tower.preprocess
    assert set(again.state_dict()) == set(tower.state_dict())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in tower.state_dict().items())
    return again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "part", "model"),
    [
        ("clip", "whole", "CLIPVisionModelWithProjection"),
        ("clip", "vision", "CLIPVisionModel"),
        ("siglip", "whole", "SiglipVisionModel"),
    ],
)
@torch.no_grad()
def test_transformers_loads_the_encoder(tmp_path, family, part, model):
    write_hugging_face_folder(tmp_path / "base", family, part)
    tower = tuned(tmp_path / "base")
    assert model in write(tower, tmp_path / "out")[0]
    assert check_same_tensors(tower, tmp_path / "out").spec == tower.spec

    loaded, info = getattr(transformers, model).from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    for image in images():
        own = pixels(tower, image)
        assert torch.equal(processor(image, return_tensors="pt")["pixel_values"], own)
        output = loaded.eval()(own, output_hidden_states=True)
        pooled = output.image_embeds if model.endswith("Projection") else output.pooler_output
        patches = output.hidden_states[-1][:, 1:] if family == "clip" else output.hidden_states[-1]
        torch.testing.assert_close(patches, tower.encode_patches(own), rtol=0, atol=1e-5)
        torch.testing.assert_close(pooled, tower.encode_pooled(own), rtol=0, atol=1e-5)


@torch.no_grad()
def test_where_transformers_rounds_a_crop_otherwise_it_is_one_pixel_beside(tmp_path):
    write_hugging_face_folder(tmp_path / "base", "clip", "vision")
    tower = load(tmp_path / "base")
    assert "one pixel beside ours" in write(tower, tmp_path / "out")[1]
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    for width, apart in ((32 + 5, False), (32 + 6, False), (32 + 7, True), (32 + 8, False)):
        image = Image.fromarray(np.random.default_rng(1).integers(0, 255, (32, width, 3), dtype=np.uint8))
        theirs, ours = processor(image, return_tensors="pt")["pixel_values"], pixels(tower, image)
        assert torch.equal(theirs, ours) is not apart
        if apart:
            assert torch.equal(theirs[..., 1:], ours[..., :-1])


@torch.no_grad()
def test_a_siglip_encoder_without_its_head_is_written_as_that(tmp_path):
    write_hugging_face_folder(tmp_path / "base", "siglip", "vision")
    config = json.loads((tmp_path / "base/config.json").read_text())
    tower = load(tmp_path / "base")
    spec = {**tower.spec, "config": {**tower.spec["config"], "vision_use_head": False}}
    headless = type(tower)(spec, tower.preprocess).eval()
    assert config["vision_use_head"] and not headless.has_pooled
    write(headless, tmp_path / "out")
    _, info = transformers.SiglipVisionModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())


@pytest.mark.slow
@pytest.mark.parametrize(("vision", "quick_gelu"), [(TIMM_VISION, False), (NATIVE_VISION, True)])
@torch.no_grad()
def test_open_clip_loads_the_whole_model_with_the_base_text_half(tmp_path, vision, quick_gelu):
    base = write_open_clip_folder(tmp_path / "base", vision, quick_gelu)
    (tmp_path / "base/vocab.txt").write_text("a\nb\n")
    tower = tuned(tmp_path / "base")
    write(tower, tmp_path / "out", tmp_path / "base")
    assert check_same_tensors(tower, tmp_path / "out").spec == tower.spec
    assert (tmp_path / "out/vocab.txt").read_text() == "a\nb\n"

    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{tmp_path / 'out'}")
    state = model.eval().state_dict()
    assert set(state) == set(base)
    text = [name for name in base if not name.startswith("visual.")]
    assert text and all(torch.equal(state[name], base[name]) for name in text)
    for image in images():
        own = pixels(tower, image)
        assert torch.equal(preprocess(image)[None], own)
        torch.testing.assert_close(model.encode_image(own), tower.encode_pooled(own), rtol=0, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_timm_loads_the_trunk_of_an_open_clip_encoder(tmp_path):
    write_open_clip_folder(tmp_path / "base")
    tower = tuned(tmp_path / "base")
    notices = write(tower, tmp_path / "out")
    assert "projection into open_clip's image embedding is left out" in notices[1]
    settings = json.loads((tmp_path / "out/config.json").read_text())["pretrained_cfg"]
    assert "license" not in settings and "tag" not in settings

    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    again = load(tmp_path / "out")
    for image in images():
        own = pixels(tower, image)
        assert torch.equal(transform(image)[None], own)
        patches = model.forward_features(own)[:, model.num_prefix_tokens :]
        torch.testing.assert_close(patches, tower.encode_patches(own), rtol=0, atol=1e-5)
        torch.testing.assert_close(model(own), tower.trunk(own), rtol=0, atol=1e-5)
        assert torch.equal(again.encode_patches(own), tower.encode_patches(own))
    assert all(torch.equal(value, again.trunk.state_dict()[name]) for name, value in tower.trunk.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("size", [{}, {"image_size": 96}])
@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
@torch.no_grad()
def test_timm_loads_a_timm_encoder(tmp_path, size, resize_mode):
    tower = tuned({"name": "timm:test_vit", "pretrained": False, **size})
    tower.preprocess = replace(tower.preprocess, resize_mode=resize_mode)
    write(tower, tmp_path / "out")
    assert check_same_tensors(tower, tmp_path / "out").spec == tower.spec
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    transform = create_transform(**resolve_model_data_config(model), is_training=False)
    for image in images():
        own = pixels(tower, image)
        assert torch.equal(transform(image)[None], own)
        torch.testing.assert_close(model(own), tower.encode_pooled(own), rtol=0, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_another_pooling_than_the_architecture_has_is_kept(tmp_path):
    write_open_clip_folder(tmp_path / "base", {**TIMM_VISION, "timm_pool": "avg"})
    tower = tuned(tmp_path / "base")
    write(tower, tmp_path / "out")
    own = pixels(tower, images()[0])
    assert torch.equal(load(tmp_path / "out").encode_pooled(own), tower.trunk(own))


@pytest.mark.slow
def test_a_trunk_that_timm_would_not_make_again_is_refused(tmp_path):
    write_open_clip_folder(tmp_path / "base")
    tower = load(tmp_path / "base")
    tower.trunk.norm = torch.nn.Identity()
    with pytest.raises(UserError, match=r"timm cannot rebuild this encoder by itself .* --text-from"):
        write(tower, tmp_path / "out")


def test_what_cannot_be_written_is_refused(tmp_path):
    write_open_clip_folder(tmp_path / "native", NATIVE_VISION)
    native = load(tmp_path / "native")
    with pytest.raises(UserError, match=r"no format for this encoder without its text half"):
        write(native, tmp_path / "out")
    write_open_clip_folder(tmp_path / "other", {**NATIVE_VISION, "layers": 1})
    with pytest.raises(UserError, match="holds another encoder than the tuned one"):
        write(native, tmp_path / "out", tmp_path / "other")
    with pytest.raises(UserError, match=r"holds no open_clip_config\.json"):
        write(native, tmp_path / "out", tmp_path)
    tiny = load({"name": "tiny", "image_size": 16, "stride": 8, "width": 32, "depth": 1, "heads": 2})
    with pytest.raises(UserError, match="use its checkpoint by vision_checkpoint="):
        write(tiny, tmp_path / "out")
    with pytest.raises(UserError, match="only an open_clip encoder has a text half"):
        write(tiny, tmp_path / "out", tmp_path / "native")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dinov2", "dinov3", "convnextv2"])
@torch.no_grad()
def test_transformers_loads_the_encoders_that_it_has_without_a_text_half(tmp_path, name):
    (tmp_path / "base").mkdir()
    ENCODERS[name].write(tmp_path / "base")
    tower = tuned({"name": str(tmp_path / "base"), "scales": [1, 2]})
    notices = write(tower, tmp_path / "out")
    assert "AutoModel.from_pretrained" in notices[0] and "the scales [1, 2] are left out" in notices[1]
    again = check_same_tensors(tower.tower, tmp_path / "out")
    model, info = transformers.AutoModel.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    seen = pixels(again, images()[0])
    torch.testing.assert_close(model.eval()(seen).pooler_output, again.encode_pooled(seen))
    if name != "convnextv2":
        with pytest.raises(UserError, match="is cut before its last layer"):
            write(load({"name": str(tmp_path / "base"), "select_layer": -2}), tmp_path / "cut")
