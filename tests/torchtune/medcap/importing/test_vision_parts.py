import pytest

from medcap.errors import UserError
from medcap.importing.vision_parts import cut_layers, kept_layers
from medcap.models.towers.registry import resolve_tower


@pytest.mark.parametrize(("layer", "kept"), [(-1, 24), (-2, 23), (-24, 1), (24, 24), (1, 1)])
def test_the_last_layer_that_stays_gives_the_hidden_state(layer, kept):
    assert kept_layers(layer, 24) == kept


@pytest.mark.parametrize("layer", [-25, 0, 25])
def test_a_layer_that_is_none(layer):
    with pytest.raises(UserError, match="is none of the tower's 24"):
        kept_layers(layer, 24)


def test_a_tower_that_is_not_of_transformers_is_read_at_its_end():
    source = resolve_tower("biomedclip", weights=False)
    assert cut_layers(source, -1) is source
    with pytest.raises(UserError, match="--select-layer -2: only CLIP and SigLIP towers of transformers can be cut"):
        cut_layers(source, -2)
