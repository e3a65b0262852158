import open_clip
import pytest
import timm
import torch
import transformers

from helpers.encoder_folders import ENCODERS
from helpers.vision_checkpoints import NATIVE_VISION, write_hugging_face_folder, write_open_clip_folder
from medcap.errors import UserError
from medcap.models.towers.registry import build_tower, resolve_tower
from medcap.models.towers.select_layer import cut_layers, kept_layers


@pytest.mark.parametrize(("layer", "kept"), [(-1, 24), (-2, 23), (-24, 1), (24, 24), (1, 1)])
def test_the_last_layer_that_stays_gives_the_hidden_state(layer, kept):
    assert kept_layers(layer, 24) == kept


@pytest.mark.parametrize("layer", [-25, 0, 25])
def test_a_layer_that_is_none(layer):
    with pytest.raises(UserError, match="is none of the tower's 24"):
        kept_layers(layer, 24)


@pytest.mark.parametrize("name", ["timm:test_convnext", "tiny", "open_clip:RN50"])
def test_a_tower_without_layers_to_leave_out_is_read_at_its_end(name):
    source = resolve_tower({"name": name, "pretrained": None if name == "tiny" else False})
    assert cut_layers(source, -1) is source
    with pytest.raises(UserError, match=r"vision\.select_layer=-2: this .* tower is not a transformer"):
        cut_layers(source, -2)


@pytest.mark.parametrize(("model_type", "key"), [("clip", "select_layer"), ("siglip", "layer")])
def test_the_patch_tokens_are_those_of_the_layer_that_is_named(tmp_path, model_type, key):
    model = write_hugging_face_folder(tmp_path, model_type)
    source = resolve_tower({"name": str(tmp_path), key: -2})
    tower = build_tower(source.spec, source.preprocess)
    assert source.weights is not None
    tower.load_state_dict(source.weights.read())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    hidden = model.vision_model(images, output_hidden_states=True).hidden_states[-2]
    expected = hidden[:, 1:] if model_type == "clip" else hidden
    torch.testing.assert_close(tower.encode_patches(images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("layer", ["-2", 0.5, True])
def test_a_layer_that_is_no_number_is_refused(tmp_path, layer):
    with pytest.raises(UserError, match=r"vision\.select_layer=.* must be a whole number"):
        resolve_tower({"name": "tiny", "select_layer": layer})


def cut(folder, images):
    """The tokens of the layer before the last, and the tower."""
    source = resolve_tower({"name": str(folder), "select_layer": -2})
    tower = build_tower(source.spec, source.preprocess)
    assert source.weights is not None
    source.weights.check({key: tuple(value.shape) for key, value in tower.state_dict().items()}, folder, "the tower")
    tower.load_state_dict(source.weights.read())
    return tower.eval().encode_patches(images), tower


@pytest.mark.slow
@pytest.mark.parametrize(("name", "model", "prefix"), [("dinov2", "Dinov2Model", 1), ("dinov3", "DINOv3ViTModel", 5)])
@torch.no_grad()
def test_an_earlier_layer_of_dino_is_read_without_the_norm(tmp_path, name, model, prefix):
    ENCODERS[name].write(tmp_path)
    images = torch.randn(2, 3, ENCODERS[name].size, ENCODERS[name].size, generator=torch.Generator().manual_seed(3))
    whole = getattr(transformers, model).from_pretrained(tmp_path).eval()
    expected = whole(images, output_hidden_states=True).hidden_states[-2][:, prefix:]
    found, tower = cut(tmp_path, images)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    with pytest.raises(UserError, match="a tower that is cut has no pooled vector"):
        tower.encode_pooled(images)


@pytest.mark.slow
@torch.no_grad()
def test_an_earlier_layer_of_timm_is_what_get_intermediate_layers_gives(tmp_path):
    ENCODERS["timm_vit"].write(tmp_path)
    images = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(3))
    whole = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    found, tower = cut(tmp_path, images)
    # As LLaVA-Med reads BiomedCLIP's trunk.
    assert torch.equal(found, whole.get_intermediate_layers(images, n=3)[-2])
    with pytest.raises(UserError, match="this timm model is cut before its last layer"):
        tower.encode_pooled(images)


@pytest.mark.slow
@pytest.mark.parametrize("timm_trunk", [True, False])
@torch.no_grad()
def test_an_earlier_layer_of_open_clip(tmp_path, timm_trunk):
    write_open_clip_folder(tmp_path, *(() if timm_trunk else (NATIVE_VISION,)))
    size = 160 if timm_trunk else 32
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    visual = open_clip.create_model(f"local-dir:{tmp_path}").eval().visual
    if timm_trunk:
        expected = visual.trunk.get_intermediate_layers(images, n=3)[-2]
    else:
        maps = visual.forward_intermediates(images, indices=2, intermediates_only=True)["image_intermediates"]
        expected = maps[0].flatten(2).transpose(1, 2)
    torch.testing.assert_close(cut(tmp_path, images)[0], expected, rtol=0, atol=1e-6)
