import json

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    CLIPVisionModel,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionModel,
)

from helpers.vision_checkpoints import write_hugging_face_folder
from medcap.checkpoints.vision import plan_vision
from medcap.errors import UserError
from medcap.models.preprocess import CLIP_STD, Preprocess
from medcap.models.towers.base import TowerShape
from medcap.models.towers.hugging_face_tower import hugging_face_from_folder
from medcap.models.towers.image_processor import default_preprocess
from medcap.models.towers.registry import build_tower, resolve_tower

MLP = {"_component_": "medcap.models.mlp"}
IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))


def load(folder):
    return plan_vision(str(folder), None, MLP, 16).build()[0].eval()


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hugging_face")
    models = {
        "clip": write_hugging_face_folder(folder / "clip", "clip"),
        "siglip": write_hugging_face_folder(folder / "siglip", "siglip", sharded=True),
    }
    return folder, models


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("siglip", TowerShape(729, 1152, 1152), 428_225_600),
        ("clip", TowerShape(576, 1024, 768), 304_293_888),
    ],
)
def test_the_named_towers_have_their_published_sizes(name, shape, parameters):
    source = resolve_tower(name, weights=False)
    with torch.device("meta"):
        tower = build_tower(source.spec, source.preprocess)
    assert tower.shape == shape
    assert sum(parameter.numel() for parameter in tower.parameters()) == parameters


@pytest.mark.parametrize(("family", "strategy"), [("clip", "default"), ("siglip", "full")])
def test_patches_are_what_llava_reads_from_the_last_layer(written, family, strategy):
    folder, models = written
    tower = load(folder / family)
    vision = models[family].vision_model
    config = LlavaConfig(
        vision_config=vision.config,
        text_config=LlamaConfig(
            hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=16
        ),
        vision_feature_layer=-1,
        vision_feature_select_strategy=strategy,
        image_token_index=3,
    )
    llava = LlavaForConditionalGeneration(config).eval()
    llava.model.vision_tower.load_state_dict(vision.state_dict())
    llava.model.multi_modal_projector = torch.nn.Identity()
    with torch.no_grad():
        features = llava.get_image_features(IMAGES, -1, strategy)
        hidden = vision(IMAGES, output_hidden_states=True).hidden_states[-1]
        patches = tower.encode_patches(IMAGES)
    assert torch.equal(patches, torch.stack(list(features.pooler_output)))
    assert torch.equal(patches, hidden[:, 1:] if family == "clip" else hidden)


def test_the_pooled_vector_of_clip_is_its_image_embedding_before_normalisation(written):
    folder, models = written
    with torch.no_grad():
        expected = models["clip"].visual_projection(models["clip"].vision_model(IMAGES).pooler_output)
        assert torch.equal(load(folder / "clip").encode_pooled(IMAGES), expected)


def test_the_pooled_vector_of_siglip_is_its_pooler_output(written):
    folder, models = written
    with torch.no_grad():
        expected = models["siglip"].vision_model(IMAGES).pooler_output
        assert torch.equal(load(folder / "siglip").encode_pooled(IMAGES), expected)


@pytest.mark.parametrize("bare_names", [True, False])
@pytest.mark.parametrize(("family", "model_class"), [("clip", CLIPVisionModel), ("siglip", SiglipVisionModel)])
def test_a_vision_half_is_read_with_and_without_its_prefix(tmp_path, family, model_class, bare_names):
    model = write_hugging_face_folder(tmp_path, family, part="vision", bare_names=bare_names)
    assert isinstance(model, model_class)
    tower = load(tmp_path)
    with torch.no_grad():
        assert torch.equal(tower.encode_pooled(IMAGES), model(IMAGES).pooler_output)


def test_a_vision_half_with_projection_gives_the_projected_vector(tmp_path):
    model = write_hugging_face_folder(tmp_path, "clip", part="vision_with_projection")
    with torch.no_grad():
        assert torch.equal(load(tmp_path).encode_pooled(IMAGES), model(IMAGES).image_embeds)


def test_old_checkpoints_with_stored_position_numbers_are_read(tmp_path):
    model = write_hugging_face_folder(tmp_path, "clip")
    state = load_file(tmp_path / "model.safetensors")
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(state, tmp_path / "model.safetensors")
    with torch.no_grad():
        hidden = model.vision_model(IMAGES).last_hidden_state
        assert torch.equal(load(tmp_path).encode_patches(IMAGES), hidden[:, 1:])


@pytest.mark.slow
def test_a_siglip_encoder_without_pooling_head_gives_patches_only(tmp_path):
    model = write_hugging_face_folder(tmp_path, "siglip", part="vision")
    config = json.loads((tmp_path / "config.json").read_text()) | {"vision_use_head": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    state = {name: tensor for name, tensor in load_file(tmp_path / "model.safetensors").items() if ".head." not in name}
    save_file(state, tmp_path / "model.safetensors")
    tower = load(tmp_path)
    assert tower.shape == TowerShape(16, 16, 0)
    with torch.no_grad():
        hidden = model(IMAGES, output_hidden_states=True).hidden_states[-1]
        assert torch.equal(tower.encode_patches(IMAGES), hidden)
    with pytest.raises(UserError, match="no pooling head"):
        tower.encode_pooled(IMAGES)
    with pytest.raises(UserError, match="takes a pooled vector"):
        plan_vision(str(tmp_path), None, {"_component_": "medcap.models.pooled_mlp"}, 16)


def test_preprocessing_is_read_from_the_folder(tmp_path):
    settings = {
        "size": {"shortest_edge": 32},
        "crop_size": {"height": 32, "width": 32},
        "do_center_crop": True,
        "resample": 2,
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
    }
    write_hugging_face_folder(tmp_path, "clip", preprocessor=settings)
    expected = Preprocess(32, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", "shortest")
    assert hugging_face_from_folder(tmp_path, weights=False).preprocess == expected


def test_siglips_own_preprocessor_file_means_squash(tmp_path):
    settings = {"size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    write_hugging_face_folder(tmp_path, "siglip", preprocessor=settings)
    expected = Preprocess(32, (0.5,) * 3, (0.5,) * 3, "bicubic", "squash")
    assert hugging_face_from_folder(tmp_path, weights=False).preprocess == expected


def test_preprocessing_inside_a_processor_file_is_read(tmp_path):
    write_hugging_face_folder(tmp_path, "siglip")
    (tmp_path / "preprocessor_config.json").unlink()
    settings = {"image_processor": {"size": {"height": 32, "width": 32}, "image_mean": [0.25] * 3}}
    (tmp_path / "processor_config.json").write_text(json.dumps(settings))
    assert hugging_face_from_folder(tmp_path, weights=False).preprocess.mean == (0.25,) * 3


def test_without_a_preprocessor_file_nothing_is_guessed(tmp_path):
    write_hugging_face_folder(tmp_path, "clip")
    (tmp_path / "preprocessor_config.json").unlink()
    lacking = "bring preprocessor_config.json, or give vision.preprocess.mean, vision.preprocess.std"
    with pytest.raises(UserError, match=lacking):
        resolve_tower(str(tmp_path))
    given = {"mean": 0.5, "std": list(CLIP_STD), "interpolation": "bilinear", "resize_mode": "squash"}
    found = resolve_tower({"name": str(tmp_path), "preprocess": given}).preprocess
    assert found == Preprocess(32, (0.5,) * 3, CLIP_STD, "bilinear", "squash")
    with pytest.raises(UserError, match=r"unknown key vision\.preprocess\.meen: did you mean vision\.preprocess\.mean"):
        resolve_tower({"name": str(tmp_path), "preprocess": {**given, "meen": 0.5}})
    with pytest.raises(UserError, match=r"vision\.preprocess\.image_size=64: this encoder takes images of 32 x 32"):
        resolve_tower({"name": str(tmp_path), "preprocess": {**given, "image_size": 64}})


@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_default_preprocessing_equals_transformers_on_pil_images(family):
    pixels = np.random.default_rng(0).integers(0, 256, (300, 421, 3), dtype=np.uint8)
    processor = getattr(transformers, f"{family}ImageProcessorPil")()
    expected = processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]
    preprocess = default_preprocess(f"{family.lower()}_vision_model", 224)
    found = preprocess.normalize(preprocess.transform()(Image.fromarray(pixels)))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": {"height": 64, "width": 64}}, "differs from the model's 32"),
        ({"size": {"height": 32, "width": 48}}, "differs from the model's 32"),
        ({"resample": 1}, "resample=1"),
        ({"image_std": [0.5]}, "three numbers"),
    ],
)
def test_preprocessing_that_cannot_be_followed_is_refused(tmp_path, settings, message):
    write_hugging_face_folder(tmp_path, "siglip", preprocessor=settings)
    with pytest.raises(UserError, match=message):
        hugging_face_from_folder(tmp_path, weights=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "vit"}, "model_type 'vit' is not a vision tower that is known here; clip, "),
        (
            {"model_type": "siglip2_vision_model"},
            r"\(NaFlex\), which is not read here: use a checkpoint of a fixed size",
        ),
        ({"num_attention_heads": 3}, "impossible"),
        ({"image_size": [32, 48]}, "one number each"),
    ],
)
def test_a_configuration_of_another_kind_is_refused(tmp_path, change, message):
    write_hugging_face_folder(tmp_path, "clip", part="vision")
    config = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=message):
        resolve_tower(str(tmp_path))


def test_a_missing_or_unexpected_vision_tensor_is_named(tmp_path):
    write_hugging_face_folder(tmp_path, "clip")
    state = load_file(tmp_path / "model.safetensors")
    short = {name: tensor for name, tensor in state.items() if not name.endswith("layers.1.mlp.fc1.bias")}
    save_file({**short, "text_model.encoder.layers.0.mlp.fc1.bias": torch.zeros(32)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"model.safetensors: tensor vision_model.encoder.layers.1.mlp.fc1.bias \[32\]"):
        plan_vision(str(tmp_path), None, MLP, 16)
    save_file({**state, "vision_model.extra": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"vision_model.extra with shape \[2\] has no place"):
        plan_vision(str(tmp_path), None, MLP, 16)


def test_a_folder_without_weights_is_refused(tmp_path):
    write_hugging_face_folder(tmp_path, "clip")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no model.safetensors"):
        resolve_tower(str(tmp_path))
    assert resolve_tower(str(tmp_path), weights=False).spec["projection_dim"] == 12
