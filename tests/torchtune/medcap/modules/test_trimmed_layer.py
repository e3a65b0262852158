import pytest
import torch

from helpers.tiny_generation import FAMILIES, tiny_decoder
from medcap.modules.trimmed_layer import layer_at

PLACES = torch.tensor([3, 0, 9, 11])


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_outputs_are_those_of_the_whole_layer(family):
    layer = tiny_decoder(family).eval().layers[-1]
    states = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(0))
    mask = torch.ones(2, 6, 6, dtype=torch.bool).tril()
    positions = torch.arange(6).expand(2, 6)
    with torch.no_grad():
        whole = layer(states, mask=mask, input_pos=positions).flatten(0, 1)
        seen = []
        hook = layer.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
        kept = layer_at(layer, states, PLACES, mask, positions)
        hook.remove()
    torch.testing.assert_close(kept, whole[PLACES], rtol=1e-5, atol=1e-5)
    assert seen == [torch.Size([4, 32])]


def test_a_layer_with_hooks_runs_as_it_is():
    layer = tiny_decoder().eval().layers[-1]
    states = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0))
    mask, positions = torch.ones(1, 12, 12, dtype=torch.bool).tril(), torch.arange(12)[None]
    called = []
    layer.register_forward_hook(lambda *_: called.append(True))
    with torch.no_grad():
        kept = layer_at(layer, states, PLACES, mask, positions)
        assert called == [True]
        assert torch.equal(kept, layer(states, mask=mask, input_pos=positions)[0, PLACES])
