import pytest
import torch

from helpers.tiny_generation import FAMILIES, tiny_decoder, tiny_generator
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


@pytest.mark.parametrize("hook", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_layer_with_hooks_runs_as_it_is(hook):
    layer = tiny_decoder().eval().layers[-1]
    states = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0))
    mask, positions = torch.ones(1, 12, 12, dtype=torch.bool).tril(), torch.arange(12)[None]
    called = []
    getattr(layer, hook)(lambda *_: called.append(True))
    with torch.no_grad():
        kept = layer_at(layer, states, PLACES, mask, positions)
        assert called == [True]
        assert torch.equal(kept, layer(states, mask=mask, input_pos=positions)[0, PLACES])


def test_a_layer_of_another_kind_runs_as_it_is():
    class Doubled(torch.nn.Module):
        def forward(self, states, mask, input_pos):
            return 2 * states

    states = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    kept = layer_at(Doubled(), states, PLACES, None, torch.arange(4).expand(3, 4))
    assert torch.equal(kept, 2 * states.flatten(0, 1)[PLACES])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_gives_the_hidden_states_of_the_places(tmp_path, family):
    model = tiny_generator(tmp_path, family).model.eval()
    embeddings = torch.randn(2, 6, 32, generator=torch.Generator().manual_seed(1))
    positions = torch.arange(6).expand(2, 6)
    for mask in (torch.ones(2, 6, 6, dtype=torch.bool).tril(), None):
        with torch.no_grad():
            whole = model.hidden(embeddings, mask, positions).flatten(0, 1)
            kept = model.hidden_at(embeddings, PLACES, mask, positions)
        torch.testing.assert_close(kept, whole[PLACES], rtol=1e-5, atol=1e-5)
