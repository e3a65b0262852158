import pytest
import torch
from torch import Tensor
from torchtune.modules import TransformerDecoder

from helpers.tiny_generation import FAMILIES, tiny_decoder
from medcap.generation.kv_cache import KVCache, attached


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def run(decoder: TransformerDecoder, cache: KVCache, tokens: Tensor, positions: Tensor, used: int) -> Tensor:
    mask = cache.place(positions, used)
    return decoder(tokens, mask=mask, input_pos=positions)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_uneven_rows_equal_the_plain_decoders(family):
    decoder = tiny_decoder(family).eval()
    tokens = torch.randint(0, 200, (3, 12), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([4, 9, 6])
    cache = KVCache(3 * 12)
    with torch.no_grad():
        expected = decoder(tokens)  # [3, 12, V]
        with attached(decoder, cache):
            cache.start(3, 12, tokens.device)
            prefilled = run(decoder, cache, tokens[:, :9], torch.arange(9).expand(3, 9), 9)
            for row, length in enumerate(lengths):
                assert_close(prefilled[row, :length], expected[row, :length])
            for step in range(3):
                now = (lengths + step)[:, None]
                decoded = run(decoder, cache, tokens.gather(1, now), now, 10 + step)
                assert_close(decoded[:, 0], expected[torch.arange(3), lengths + step])


def test_a_prompt_may_come_in_pieces():
    decoder = tiny_decoder().eval()
    tokens = torch.randint(0, 200, (2, 11), generator=torch.Generator().manual_seed(0))
    cache = KVCache(2 * 11)
    with torch.no_grad():
        expected = decoder(tokens)
        with attached(decoder, cache):
            cache.start(2, 11, tokens.device)
            pieces = [
                run(decoder, cache, tokens[:, start:stop], torch.arange(start, stop).expand(2, -1), stop)
                for start, stop in ((0, 5), (5, 6), (6, 11))
            ]
    assert_close(torch.cat(pieces, dim=1), expected)


def test_a_batch_does_not_see_the_one_before_even_if_that_was_not_finite():
    decoder = tiny_decoder().eval()
    tokens = torch.randint(0, 200, (2, 6), generator=torch.Generator().manual_seed(0))
    positions = torch.arange(6).expand(2, 6)
    cache = KVCache(2 * 8)
    with torch.no_grad():
        expected = decoder(tokens)
        with attached(decoder, cache):
            cache.start(2, 8, tokens.device)
            broken = torch.full((2, 8, 32), torch.nan)
            everything = torch.arange(8).expand(2, 8)
            decoder.layers[0](broken, mask=cache.place(everything, 8), input_pos=everything)
            cache.start(2, 8, tokens.device)
            logits = run(decoder, cache, tokens, positions, 8)
    assert_close(logits, expected)


def test_memory_is_taken_once():
    decoder = tiny_decoder().eval()
    cache = KVCache(40)
    with torch.no_grad(), attached(decoder, cache):
        addresses = set()
        for rows, capacity in ((4, 10), (2, 6), (3, 12)):
            cache.start(rows, capacity, torch.device("cpu"))
            positions = torch.arange(5).expand(rows, 5)
            run(decoder, cache, torch.ones(rows, 5, dtype=torch.int64), positions, 5)
            keys, _ = decoder.layers[1].attn.kv_cache.update(torch.ones(rows, 2, 5, 8), torch.ones(rows, 2, 5, 8))
            addresses.add(keys.data_ptr())
            assert keys.shape == (rows, 2, 5, 8)
    assert len(addresses) == 1


def test_too_large_a_batch_is_refused():
    with pytest.raises(ValueError, match="3 rows of 7 tokens do not fit into 20 slots"):
        KVCache(20).start(3, 7, torch.device("cpu"))


@pytest.mark.parametrize("family", ["llama3", "gemma2"])
def test_decoder_is_left_as_it_was_even_after_an_error(family):
    decoder = tiny_decoder(family).eval()
    tokens = torch.ones(1, 4, dtype=torch.int64)
    before, keys = decoder(tokens), list(decoder.state_dict())
    with pytest.raises(KeyboardInterrupt), attached(decoder, KVCache(8)):
        assert decoder.caches_are_enabled()
        raise KeyboardInterrupt
    assert not decoder.caches_are_setup()
    assert not decoder.caches_are_enabled()
    assert list(decoder.state_dict()) == keys
    assert torch.equal(decoder(tokens), before)


def test_torchtunes_own_caches_come_back():
    decoder = tiny_decoder().eval()
    decoder.setup_caches(2, torch.float32, decoder_max_seq_len=8)
    own = [layer.attn.kv_cache for layer in decoder.layers]
    names = {name for name, _ in decoder.named_buffers()}
    with attached(decoder, KVCache(8)):
        assert decoder.layers[0].attn.kv_cache is not own[0]
    assert [layer.attn.kv_cache for layer in decoder.layers] == own
    assert decoder.caches_are_enabled()
    assert {name for name, _ in decoder.named_buffers()} == names
