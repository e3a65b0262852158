"""One step of decoding, compiled."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torchtune.models.llama3 import llama3

from medcap.generation.decoding.kv_cache import KVCache, attached
from medcap.generation.decoding.prefill import decode_one
from medcap.modules.frozen_layer import freeze_layers

ROWS, CAPACITY = 3, 16


@pytest.mark.slow
def test_layers_share_what_is_compiled_for_one_of_them(monkeypatch):
    torch.manual_seed(0)
    decoder = llama3(64, 6, 4, 2, embed_dim=32, max_seq_len=32, intermediate_dim=48).eval()
    freeze_layers(decoder)
    model = SimpleNamespace(decoder=decoder, embed=lambda tokens, rows, positions: decoder.tok_embeddings(tokens))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager", fullgraph=True))
    answers, captured = [], []
    for compiled in (False, True):
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
        step, cache = decode_one(model, compiled), KVCache(ROWS * CAPACITY)
        with torch.no_grad(), attached(decoder, cache):
            cache.start(ROWS, CAPACITY, torch.device("cpu"))
            positions = torch.zeros(ROWS, dtype=torch.int64)
            found = []
            for token in range(4):
                mask = cache.step(positions, CAPACITY)
                found.append(step(torch.full((ROWS,), token), mask, positions))
                captured.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
                positions = positions + 1
        answers.append(torch.stack(found))
    torch.testing.assert_close(answers[1], answers[0])
    # The first token finds a layer's cache without memory, the second one with it. Six layers, not six graphs.
    assert captured == [0, 0, 0, 0, 1, 2, 2, 2]
    torch._dynamo.reset()
