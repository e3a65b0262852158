import pytest
import torch
from torch.nn import functional

from medcap.errors import UserError
from medcap.models.projectors.pooled_mlp import pooled_mlp
from medcap.models.towers.base import TowerShape

SHAPE = TowerShape(196, 768, 512)


def test_it_has_the_841_million_parameters_of_an_8b_model_with_50_tokens():
    with torch.device("meta"):
        projector = pooled_mlp(SHAPE, 4096)
    assert projector.takes == "pooled" and projector.num_image_tokens == 50
    assert list(projector.state_dict()) == ["0.weight", "0.bias", "2.weight", "2.bias"]
    assert sum(parameter.numel() for parameter in projector.parameters()) == 841_166_848
    with torch.device("meta"):
        assert pooled_mlp(SHAPE, 4096, num_image_tokens=32).state_dict()["2.weight"].shape == (131_072, 4096)


def test_token_k_is_the_k_th_stretch_of_outputs():
    torch.manual_seed(0)
    projector = pooled_mlp(TowerShape(4, 6, 5), 8, num_image_tokens=3)
    pooled = torch.randn(2, 5)
    state = projector.state_dict()
    hidden = functional.gelu(pooled @ state["0.weight"].T + state["0.bias"], approximate="none")
    flat = hidden @ state["2.weight"].T + state["2.bias"]
    tokens = projector(pooled)
    assert tokens.shape == (2, 3, 8)
    for k in range(3):
        torch.testing.assert_close(tokens[:, k], flat[:, k * 8 : (k + 1) * 8])


def test_the_hidden_width_can_be_chosen():
    assert pooled_mlp(TowerShape(4, 6, 5), 8, 3, hidden_dim=7).state_dict()["2.weight"].shape == (24, 7)


@pytest.mark.parametrize("options", [{"num_image_tokens": 0}, {"num_image_tokens": 2.0}, {"hidden_dim": 0}])
def test_impossible_numbers_are_refused(options):
    with pytest.raises(UserError, match="must be a positive whole number"):
        pooled_mlp(TowerShape(4, 6, 5), 8, **options)
