import pytest
from torch import nn

from medcap.checkpoints.vision import plan_vision
from medcap.errors import UserError
from medcap.training.trainable import check_trainable, set_trainable

TINY = {"name": "tiny", "image_size": 32, "width": 32, "depth": 1, "heads": 2, "pooled_dim": 12}


class Model(nn.Module):
    def __init__(self, projector):
        super().__init__()
        self.tower, self.projector = plan_vision(TINY, None, {"_component_": projector}, 16).build()
        self.decoder = nn.Linear(4, 4)
        self.components = {"vision": self.tower, "projector": self.projector}


def trained(parts, projector="medcap.models.mlp"):
    return set(set_trainable(Model(projector), parts))


@pytest.mark.parametrize("parts", [[], ["llm"], ["vision", "lora"]])
def test_parts_that_cannot_be_trained_are_refused(parts):
    with pytest.raises(UserError) as error:
        check_trainable(parts)
    assert (
        str(error.value)
        == f"trainable={parts}: choose from vision, projector, llm_lora, words, box_decoder, mask_decoder,"
        " region_encoder"
    )


@pytest.mark.slow
def test_only_the_named_parts_learn_and_the_language_model_never():
    both = trained(["vision", "projector"])
    assert {name.partition(".")[0] for name in both} == {"tower", "projector"}
    assert trained(["vision"]) == {name for name in both if name.startswith("tower.")}
    assert trained(["projector"]) == {name for name in both if name.startswith("projector.")}


@pytest.mark.slow
def test_a_pooling_head_learns_only_where_the_projector_uses_it():
    model = Model("medcap.models.mlp")
    unused = {f"tower.{name}" for name in model.tower.unused_parameters("patches")}
    assert unused
    patches, pooled = trained(["vision"]), trained(["vision"], "medcap.models.pooled_mlp")
    assert pooled - patches >= unused
    assert not patches & unused
