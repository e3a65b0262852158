import pytest
import torch
from torch.nn import functional

from medcap.errors import UserError
from medcap.models.projectors.mlp import mlp
from medcap.models.towers.base import TowerShape


def test_every_patch_token_is_projected_on_its_own():
    torch.manual_seed(0)
    projector = mlp(TowerShape(16, 6, 0), 8)
    patches = torch.randn(2, 16, 6)
    state = projector.state_dict()
    hidden = functional.gelu(patches @ state["0.weight"].T + state["0.bias"])
    torch.testing.assert_close(projector(patches), hidden @ state["2.weight"].T + state["2.bias"])
    assert projector.takes == "patches" and projector.num_image_tokens == 16
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == {
        "0.weight": (8, 6),
        "0.bias": (8,),
        "2.weight": (8, 8),
        "2.bias": (8,),
    }


def test_patches_of_biomedclip_take_20_million_parameters_for_an_8b_model():
    with torch.device("meta"):
        projector = mlp(TowerShape(196, 768, 512), 4096)
    assert sum(parameter.numel() for parameter in projector.parameters()) == 19_931_136


@pytest.mark.parametrize(("grid", "pooled"), [(4, 2), (4, 3), (27, 9), (14, 5), (27, 8), (3, 1), (5, 4)])
def test_pooling_equals_torchs_adaptive_average_with_gradients(grid, pooled):
    torch.manual_seed(0)
    projector = mlp(TowerShape(grid * grid, 6, 0), 8, num_image_tokens=pooled * pooled)
    patches = torch.randn(2, grid * grid, 6, requires_grad=True)
    twin = patches.detach().clone().requires_grad_()
    as_map = twin.transpose(1, 2).unflatten(2, (grid, grid))
    plain = functional.adaptive_avg_pool2d(as_map, pooled).flatten(2).transpose(1, 2)
    expected = projector[2](projector[1](projector[0](plain)))
    output = projector(patches)
    assert output.shape == (2, pooled * pooled, 8) and projector.num_image_tokens == pooled * pooled
    torch.testing.assert_close(output, expected)
    output.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(patches.grad, twin.grad)


def test_asking_for_all_tokens_is_no_pooling():
    assert mlp(TowerShape(49, 6, 0), 8, num_image_tokens=49).pooled is None
    assert mlp(TowerShape(10, 6, 0), 8, num_image_tokens=10).num_image_tokens == 10


def test_the_hidden_width_can_be_chosen():
    assert mlp(TowerShape(16, 6, 0), 8, hidden_dim=3)[0].out_features == 3


@pytest.mark.parametrize(
    ("patches", "options", "message"),
    [
        (196, {"num_image_tokens": 50}, "perfect square of at most 196 .* next below is 49"),
        (16, {"num_image_tokens": 25}, "next below is 16"),
        (10, {"num_image_tokens": 4}, "no square grid"),
        (16, {"num_image_tokens": 0}, "num_image_tokens=0 must be a positive whole number"),
        (16, {"num_image_tokens": "4"}, "must be a positive whole number"),
        (16, {"hidden_dim": -1}, "hidden_dim=-1"),
    ],
)
def test_impossible_numbers_are_refused(patches, options, message):
    with pytest.raises(UserError, match=message):
        mlp(TowerShape(patches, 6, 0), 8, **options)


def test_a_depth_gives_llavas_mlpnx_gelu():
    torch.manual_seed(0)
    projector = mlp(TowerShape(4, 6, 0), 8, depth=3, hidden_dim=5)
    state = projector.state_dict()
    shapes = {name: tuple(value.shape) for name, value in state.items() if name.endswith("weight")}
    assert shapes == {"0.weight": (5, 6), "2.weight": (5, 5), "4.weight": (8, 5)}
    patches = expected = torch.randn(2, 4, 6)
    for index in (0, 2, 4):
        expected = expected if index == 0 else functional.gelu(expected)
        expected = expected @ state[f"{index}.weight"].T + state[f"{index}.bias"]
    torch.testing.assert_close(projector(patches), expected)


def test_a_depth_of_one_is_linear_and_has_no_hidden_layer():
    assert list(mlp(TowerShape(4, 6, 0), 8, depth=1).state_dict()) == ["0.weight", "0.bias"]
    with pytest.raises(UserError, match="with depth=1 there is no hidden layer"):
        mlp(TowerShape(4, 6, 0), 8, depth=1, hidden_dim=4)
