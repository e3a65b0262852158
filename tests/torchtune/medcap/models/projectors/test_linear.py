import torch

from medcap.models.projectors.base import build_projector
from medcap.models.towers.base import TowerShape


def test_each_patch_is_mapped_alone():
    projector = build_projector({"_component_": "medcap.models.linear"}, TowerShape(5, 3, 0), 2)
    projector.load_state_dict({"weight": torch.tensor([[1.0, 0, 0], [0, 2, 0]]), "bias": torch.tensor([0.5, 0])})
    assert (projector.takes, projector.num_image_tokens) == ("patches", 5)
    patches = torch.arange(15.0).view(1, 5, 3)
    assert projector(patches)[0].tolist() == [[0.5, 2], [3.5, 8], [6.5, 14], [9.5, 20], [12.5, 26]]
