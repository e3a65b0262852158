import pytest
import torch
from torch.nn import functional

from medcap.errors import UserError
from medcap.export.llava.vision import llava_tower
from medcap.models.towers.base import TowerShape
from medcap.models.towers.registry import build_tower, resolve_tower

TINY = {"name": "tiny", "image_size": 16, "stride": 8, "width": 32, "depth": 1, "heads": 2}


def build(**options):
    source = resolve_tower({**TINY, **options})
    torch.manual_seed(0)
    return build_tower(source.spec, source.preprocess).eval()


def s2(encode, images, scales, size):
    """S2's forward, transcribed from s2wrapper/core.py: batches of squares, merged, pooled to the first grid."""
    features = []
    for scale in scales:
        pixels = images
        if pixels.shape[-1] != scale * size:
            pixels = functional.interpolate(images, size=scale * size, mode="bicubic", antialias=True)
        rows = pixels.split(size, dim=2)
        squares = torch.cat([square for row in rows for square in row.split(size, dim=3)])  # squares before images
        tokens = encode(squares)
        edge = round(tokens.shape[1] ** 0.5)
        maps = tokens.transpose(1, 2).unflatten(2, (edge, edge)).split(len(images))
        merged = torch.cat([torch.cat(maps[row * scale : (row + 1) * scale], 3) for row in range(scale)], 2)
        features.append(functional.adaptive_avg_pool2d(merged, edge))
    return torch.cat(features, 1).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("scales", [[1, 2], [1, 2, 3], [2], [1]])
def test_features_and_gradients_are_those_of_s2(scales):
    tower = build(scales=scales)
    size = 16 * scales[-1]
    assert tower.preprocess.image_size == size
    assert tower.shape == TowerShape(4, 32 * len(scales), 0)
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    weight = torch.randn(2, 4, 32 * len(scales), generator=torch.Generator().manual_seed(2))
    outcomes = []
    for encode in (tower.encode_patches, lambda pixels: s2(tower.tower.encode_patches, pixels, scales, 16)):
        tower.zero_grad()
        found = encode(images)
        (found * weight).sum().backward()
        outcomes.append((found.detach(), [p.grad for p in tower.parameters() if p.grad is not None]))
    (found, gradients), (expected, others) = outcomes
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(gradients, others, rtol=1e-4, atol=1e-4)


def test_what_is_saved_builds_the_same_tower():
    tower = build(scales=[1, 2])
    again = build_tower(tower.config()["tower"], tower.preprocess)
    again.load_state_dict(tower.state_dict())
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(again.eval().encode_patches(images), tower.encode_patches(images))
    assert tower.unused_parameters("patches") == {"tower.head.weight", "tower.head.bias"}
    with pytest.raises(UserError, match=r"vision\.scales: a tower with several scales has no pooled vector"):
        tower.encode_pooled(images)


def test_llava_has_no_scales():
    with pytest.raises(UserError, match=r"--format hf: LLaVA has no image at several scales \(vision\.scales\)"):
        llava_tower(build(scales=[1, 2]))


@pytest.mark.parametrize("scales", [[], 2, "12", [1.5], [0, 1], [True], [2, 1], [1, 1]])
def test_scales_that_are_none_are_refused(scales):
    with pytest.raises(UserError, match=r"vision\.scales="):
        build(scales=scales)
