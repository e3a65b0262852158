import pytest
import torch

from medcap.errors import UserError
from medcap.models.projectors import base
from medcap.models.projectors.base import Projector, build_projector
from medcap.models.towers.base import TowerShape

SHAPE = TowerShape(16, 6, 5)


class Mean(Projector):
    """A projector as a user would add it, in one file."""

    takes = "patches"
    num_image_tokens = 1

    def __init__(self, patch_dim, llm_dim):
        super().__init__()
        self.linear = torch.nn.Linear(patch_dim, llm_dim)

    def forward(self, patches):
        return self.linear(patches.mean(1, keepdim=True))


def mean(tower_shape, llm_dim, scale=1.0):
    return Mean(tower_shape.patch_dim, llm_dim)


def blind(tower_shape, llm_dim):
    return torch.nn.Identity()


@pytest.fixture
def own_components(monkeypatch):
    monkeypatch.setattr(base, "mean", mean, raising=False)
    monkeypatch.setattr(base, "blind", blind, raising=False)


def test_a_projector_of_ones_own_is_named_like_the_built_in_ones(own_components):
    projector = build_projector({"_component_": "medcap.models.projectors.base.mean", "scale": 2.0}, SHAPE, 8)
    assert projector(torch.randn(3, 16, 6)).shape == (3, 1, 8)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "projector._component_ is missing"),
        ({"_component_": "medcap.models.nothing"}, "projector._component_=medcap.models.nothing"),
        (
            {"_component_": "medcap.models.mlp", "hiden_dim": 3},
            "projector.hiden_dim: did you mean projector.hidden_dim",
        ),
        ({"_component_": "medcap.models.projectors.base.blind"}, "must say that it takes"),
    ],
)
def test_a_wrong_component_or_option_is_refused(own_components, config, message):
    with pytest.raises(UserError, match=message):
        build_projector(config, SHAPE, 8)


def test_a_pooled_projector_needs_a_tower_with_a_pooled_vector():
    with torch.device("meta"), pytest.raises(UserError, match="but this tower has none"):
        build_projector({"_component_": "medcap.models.pooled_mlp"}, TowerShape(16, 6, 0), 8)
