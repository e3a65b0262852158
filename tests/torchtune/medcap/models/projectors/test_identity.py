import pytest
import torch

from medcap.errors import UserError
from medcap.models.projectors.base import build_projector
from medcap.models.towers.base import TowerShape

IDENTITY = {"_component_": "medcap.models.identity"}


def test_the_towers_tokens_are_the_image_tokens():
    projector = build_projector(IDENTITY, TowerShape(5, 8, 0), 8)
    patches = torch.randn(2, 5, 8)
    assert projector.num_image_tokens == 5 and torch.equal(projector(patches), patches)
    assert not projector.state_dict()


def test_another_width_is_refused():
    with pytest.raises(UserError, match="tokens have width 6 and the language model's 8"):
        build_projector(IDENTITY, TowerShape(5, 6, 0), 8)
