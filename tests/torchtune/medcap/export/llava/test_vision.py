import pytest
import torch

from medcap.errors import UserError
from medcap.export.llava.vision import check_tower, llava_tower, oldest_transformers
from medcap.models.preprocess import Preprocess
from medcap.models.towers.registry import build_tower


def timm_tower(name, size):
    torch.manual_seed(0)
    vision = {"timm_model_name": name, "timm_pool": "", "timm_proj": "linear", "image_size": size}
    spec = {"kind": "open_clip", "embed_dim": 12, "vision_cfg": vision, "quick_gelu": False}
    return build_tower(spec, Preprocess(size))


def test_a_vit_is_transformers_own_with_query_key_and_value_apart():
    tower = timm_tower("test_vit", 160)
    exported = llava_tower(tower)
    check_tower(tower, exported)
    fused = tower.trunk.blocks[1].attn.qkv.weight
    attention = "encoder.layer.1.attention.attention"
    parts = [exported.tensors[f"{attention}.{name}.weight"] for name in ("query", "key", "value")]
    assert torch.equal(torch.cat(parts), fused)
    assert oldest_transformers(tower.spec) == "5.18"
    assert exported.config["tie_last_hidden_states"] is True and exported.select_strategy == "default"


# A register in place of the class token, and scaled layers.
@pytest.mark.parametrize("name", ["test_vit2", "test_vit3"])
def test_a_vit_with_other_parts_has_no_place(name):
    with pytest.raises(UserError, match="no vision model that LLaVA could use as this open_clip tower"):
        llava_tower(timm_tower(name, 160))


def test_another_activation_is_noticed():
    tower = timm_tower("test_vit", 160)
    exported = llava_tower(tower)
    exported.config["hidden_act"] = "quick_gelu"
    with pytest.raises(UserError, match="vit model gives other features than this open_clip tower"):
        check_tower(tower, exported)


def test_a_tensor_that_is_missing_is_noticed():
    tower = timm_tower("test_vit", 160)
    exported = llava_tower(tower)
    del exported.tensors["layernorm.bias"]
    with pytest.raises(UserError, match=r"vit model has another set of tensors: layernorm.bias"):
        check_tower(tower, exported)
