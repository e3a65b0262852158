import pytest
import torch

from helpers.vision_checkpoints import write_hugging_face_folder
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
