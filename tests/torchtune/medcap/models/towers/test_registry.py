import copy
import json

import pytest

from helpers.vision_checkpoints import write_hugging_face_folder, write_open_clip_folder
from medcap.errors import UserError
from medcap.models.towers.registry import NAMED_TOWERS, build_tower, resolve_tower, same_architecture


def test_a_specification_survives_json():
    for name in (*NAMED_TOWERS, "tiny", "timm:test_vit", "ViT-B-16"):
        spec = resolve_tower(name, weights=False).spec
        assert json.loads(json.dumps(spec)) == spec


def test_the_named_architectures_equal_their_configuration_files(tmp_path):
    biomedclip = {
        "embed_dim": 512,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_224",
            "timm_model_pretrained": False,
            "timm_pool": "",
            "timm_proj": "linear",
            "image_size": 224,
        },
        "text_cfg": {"hf_model_name": "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"},
    }
    siglip = {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    }
    clip = {
        "hidden_size": 1024,
        "image_size": 336,
        "intermediate_size": 4096,
        "num_attention_heads": 16,
        "num_hidden_layers": 24,
        "patch_size": 14,
        "projection_dim": 768,
    }
    files = {
        "biomedclip": ("open_clip_config.json", {"model_cfg": biomedclip}),
        "siglip": ("config.json", {"model_type": "siglip", "vision_config": siglip}),
        "clip": ("config.json", {"model_type": "clip", "projection_dim": 768, "vision_config": clip}),
    }
    for name, (file, content) in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text(json.dumps(content))
        given = NAMED_TOWERS[name].preprocess.to_dict()
        source = resolve_tower({"name": str(tmp_path / name), "preprocess": given}, weights=False)
        assert same_architecture(source.spec, NAMED_TOWERS[name].spec)
        assert source.preprocess == NAMED_TOWERS[name].preprocess


def test_architectures_that_differ_are_distinguished():
    first = resolve_tower("biomedclip", weights=False).spec
    second = copy.deepcopy(first)
    assert same_architecture(first, second)
    second["vision_cfg"]["timm_drop"] = 0.0
    assert same_architecture(first, second)
    second["embed_dim"] = 256
    assert not same_architecture(first, second)


def test_a_folder_with_two_formats_is_read_as_the_one_whose_weights_are_there(tmp_path):
    write_hugging_face_folder(tmp_path, "clip")
    write_open_clip_folder(tmp_path)
    assert resolve_tower(str(tmp_path)).spec["kind"] == "open_clip"
    (tmp_path / "open_clip_model.safetensors").unlink()
    assert resolve_tower(str(tmp_path)).spec["kind"] == "hugging_face"


def test_a_named_tower_can_start_random_when_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert resolve_tower({"name": "biomedclip", "pretrained": False}).weights is None


@pytest.mark.parametrize(
    ("vision", "message"),
    [
        ("siglp", "did you mean siglip"),
        ("./nowhere", "no such folder"),
        ("a/b/c", "no such folder"),
        ({"image_size": 64}, "vision.name is missing"),
        ({"name": "biomedclip", "image_size": 64}, "unknown key vision.image_size"),
        ({"name": "timm:test_vit", "image_size": 64}, "unknown key vision.image_size"),
        ({"name": "tiny", "pretrained": "yes"}, "must be true or false"),
    ],
)
def test_what_names_no_tower_is_refused(vision, message):
    with pytest.raises(UserError, match=message):
        resolve_tower(vision)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"holds no open_clip_config.json, config.json or vision.json"):
        resolve_tower(str(tmp_path))


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="unknown kind of tower 'new'"):
        build_tower({"kind": "new"}, NAMED_TOWERS["clip"].preprocess)
