import pytest
import torch
from torch.nn import functional

from medcap.errors import UserError
from medcap.models.projectors.base import build_projector
from medcap.models.towers.base import TowerShape

PPC = {"_component_": "medcap.models.ppc"}


def test_siglips_grid_becomes_the_246_tokens_of_colongpt():
    with torch.device("meta"):
        projector = build_projector(PPC, TowerShape(729, 1152, 0), 64)
    assert projector.num_image_tokens == 246
    assert projector(torch.empty(2, 729, 1152, device="meta")).shape == (2, 246, 64)


def test_each_level_is_pooled_and_all_but_the_last_are_convolved():
    torch.manual_seed(0)
    projector = build_projector({**PPC, "levels": [4, 2, 1]}, TowerShape(25, 6, 0), 8)
    patches = torch.randn(3, 25, 6, requires_grad=True)
    found = projector(patches)
    state = projector.state_dict()
    grid = functional.gelu(patches @ state["inner.weight"].T + state["inner.bias"]).transpose(1, 2).reshape(3, 8, 5, 5)
    levels = [functional.adaptive_avg_pool2d(grid, edge) for edge in (4, 2, 1)]
    convolution = state["convolution.weight"], state["convolution.bias"]
    levels[:2] = [functional.conv2d(level, *convolution, padding=1) for level in levels[:2]]
    tokens = torch.cat([level.flatten(2) for level in levels], 2).transpose(1, 2)  # [N, K, d]
    expected = tokens @ state["outer.weight"].T + state["outer.bias"]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad(found.square().sum(), patches, retain_graph=True)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.square().sum(), patches)[0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("patches", "levels", "message"),
    [
        (24, [2, 1], "24 tokens form no square grid"),
        (25, [6, 1], "must fall, from at most 5"),
        (25, [2, 2], "must fall"),
        (25, [1, 2], "must fall"),
        (25, [], "must be a list of grid edges"),
        (25, 4, "must be of type"),
        (25, [2, 0], "must be a positive whole number"),
    ],
)
def test_a_grid_or_levels_that_do_not_fit_are_refused(patches, levels, message):
    with pytest.raises(UserError, match=message):
        build_projector({**PPC, "levels": levels}, TowerShape(patches, 6, 0), 8)
