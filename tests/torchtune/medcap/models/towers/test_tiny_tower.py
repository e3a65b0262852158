import pytest
import torch

from medcap.errors import UserError
from medcap.models.towers.base import TowerShape
from medcap.models.towers.registry import build_tower, resolve_tower


def tiny(**options):
    source = resolve_tower({"name": "tiny", **options})
    torch.manual_seed(0)
    return build_tower(source.spec, source.preprocess)


def test_the_default_tower_has_64_patches_and_half_a_million_parameters():
    tower = tiny()
    assert tower.shape == TowerShape(64, 96, 96)
    assert sum(parameter.numel() for parameter in tower.parameters()) == 537_984
    assert tower.preprocess.image_size == 64 and tower.preprocess.resize_mode == "squash"


def test_options_change_the_architecture():
    tower = tiny(image_size=32, width=64, depth=2, heads=2, pooled_dim=5)
    assert tower.shape == TowerShape(16, 64, 5)
    assert len(tower.blocks) == 2


def test_an_images_tokens_do_not_depend_on_its_batch():
    tower = tiny(image_size=32, width=32, depth=1, heads=1).train()
    images = torch.randn(3, 3, 32, 32)
    together = tower.encode_patches(images)
    torch.testing.assert_close(tower.encode_patches(images[1:2]), together[1:2])


def test_patches_are_row_major():
    tower = tiny(image_size=64, depth=1)
    tower.blocks = torch.nn.ModuleList()
    blank = torch.zeros(1, 3, 64, 64)
    marked = blank.clone()
    marked[:, :, 15:18, 39:42] = 1.0  # the centre of what token (2, 5) sees
    moved = (tower.encode_patches(marked) - tower.encode_patches(blank)).abs().sum(-1)[0]
    assert moved.argmax() == 2 * 8 + 5


def test_all_parameters_learn_from_both_outputs():
    tower = tiny(image_size=32, width=32, depth=1, heads=1)
    images = torch.randn(2, 3, 32, 32)
    (tower.encode_patches(images).square().sum() + tower.encode_pooled(images).square().sum()).backward()
    assert all(parameter.grad is not None for parameter in tower.parameters())
    assert tower.unused_parameters("patches") == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 64}, "unknown key vision.size"),
        ({"image_size": 60}, "multiple of 8"),
        ({"width": 90}, "multiple of 32"),
        ({"heads": 5}, "vision.heads=5"),
        ({"depth": 0}, "vision.depth=0"),
        ({"pretrained": True}, "no pretrained weights"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        tiny(**options)
