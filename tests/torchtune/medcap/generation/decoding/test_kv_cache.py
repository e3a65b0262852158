import pytest
import torch
from torch import Tensor
from torchtune.modules import TransformerDecoder

from helpers.tiny_generation import FAMILIES, tiny_decoder
from medcap.generation.decoding.kv_cache import KVCache, attached


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def prefill(decoder: TransformerDecoder, cache: KVCache, tokens: Tensor, rows: list[int], lengths: list[int]) -> Tensor:
    """Store the first tokens of rows."""
    width = tokens.shape[1]
    slots = [row * cache.capacity + torch.arange(length) for row, length in zip(rows, lengths, strict=True)]
    sources = [number * width + torch.arange(length) for number, length in enumerate(lengths)]
    cache.fill(torch.cat(slots), torch.cat(sources))
    causal = torch.ones(len(tokens), width, width, dtype=torch.bool).tril()
    return decoder(tokens, mask=causal, input_pos=torch.arange(width).expand(len(tokens), width))


def decode(decoder: TransformerDecoder, cache: KVCache, tokens: Tensor, positions: Tensor, used: int) -> Tensor:
    mask = cache.step(positions, used)
    return decoder(tokens[:, None], mask=mask, input_pos=positions[:, None])[:, 0]


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
            prefilled = prefill(decoder, cache, tokens[:, :9], [0, 1, 2], lengths.tolist())
            for row, length in enumerate(lengths):
                assert_close(prefilled[row, :length], expected[row, :length])
            for step in range(3):
                now = lengths + step
                decoded = decode(decoder, cache, tokens[torch.arange(3), now], now, 10 + step)
                assert_close(decoded, expected[torch.arange(3), now])


def test_one_computed_prefix_serves_several_rows():
    decoder = tiny_decoder().eval()
    tokens = torch.randint(0, 200, (2, 6), generator=torch.Generator().manual_seed(0))
    tokens[1, :4] = tokens[0, :4]
    cache = KVCache(2 * 8)
    with torch.no_grad():
        expected = decoder(tokens)
        with attached(decoder, cache):
            cache.start(2, 8, tokens.device)
            # Both rows take the first four tokens of the one row that is run.
            cache.fill(torch.tensor([0, 1, 2, 3, 8, 9, 10, 11]), torch.tensor([0, 1, 2, 3, 0, 1, 2, 3]))
            decoder(tokens[:1, :4], mask=torch.ones(1, 4, 4, dtype=torch.bool).tril(), input_pos=torch.arange(4)[None])
            for position in (4, 5):
                now = torch.full((2,), position)
                assert_close(decode(decoder, cache, tokens[:, position], now, position + 1), expected[:, position])


def test_a_row_is_filled_again_while_others_continue():
    decoder = tiny_decoder().eval()
    tokens = torch.randint(0, 200, (3, 9), generator=torch.Generator().manual_seed(0))
    cache = KVCache(2 * 9)
    with torch.no_grad():
        expected = decoder(tokens)
        with attached(decoder, cache):
            cache.start(2, 9, tokens.device)
            prefill(decoder, cache, tokens[:2, :7], [0, 1], [4, 7])
            decode(decoder, cache, tokens[:2].gather(1, torch.tensor([[4], [7]]))[:, 0], torch.tensor([4, 7]), 8)
            prefill(decoder, cache, tokens[2:, :3], [1], [3])
            both = torch.stack([tokens[0, 5], tokens[2, 3]])
            decoded = decode(decoder, cache, both, torch.tensor([5, 3]), 6)
    assert_close(decoded, torch.stack([expected[0, 5], expected[2, 3]]))


def test_kept_rows_move_up_and_continue():
    decoder = tiny_decoder().eval()
    tokens = torch.randint(0, 200, (4, 6), generator=torch.Generator().manual_seed(0))
    cache = KVCache(4 * 6)
    with torch.no_grad():
        expected = decoder(tokens)
        with attached(decoder, cache):
            cache.start(4, 6, tokens.device)
            prefill(decoder, cache, tokens[:, :5], [0, 1, 2, 3], [5, 5, 5, 5])
            cache.keep([1, 3])
            decoded = decode(decoder, cache, tokens[[1, 3], 5], torch.tensor([5, 5]), 6)
    assert_close(decoded, expected[[1, 3], 5])


def test_what_was_not_finite_is_forgotten():
    decoder = tiny_decoder().eval()
    tokens = torch.randint(0, 200, (2, 6), generator=torch.Generator().manual_seed(0))
    cache = KVCache(2 * 8)
    everything = torch.arange(8).expand(2, 8)
    with torch.no_grad():
        expected = decoder(tokens)
        with attached(decoder, cache):
            for forget in (lambda: cache.start(2, 8, tokens.device), lambda: [cache.clear(row) for row in (0, 1)]):
                cache.start(2, 8, tokens.device)
                cache.fill(torch.arange(16), torch.arange(16))
                broken = torch.full((2, 8, 32), torch.nan)
                decoder.layers[0](broken, mask=torch.ones(2, 8, 8, dtype=torch.bool), input_pos=everything)
                forget()
                prefill(decoder, cache, tokens[:, :5], [0, 1], [5, 5])
                assert_close(decode(decoder, cache, tokens[:, 5], torch.tensor([5, 5]), 8), expected[:, 5])


def test_memory_is_taken_once():
    decoder = tiny_decoder().eval()
    cache = KVCache(40)
    with torch.no_grad(), attached(decoder, cache):
        addresses = set()
        for rows, capacity in ((4, 10), (2, 6), (3, 12)):
            cache.start(rows, capacity, torch.device("cpu"))
            prefill(decoder, cache, torch.ones(rows, 5, dtype=torch.int64), list(range(rows)), [5] * rows)
            cache.step(torch.full((rows,), 5), 6)
            keys, _ = decoder.layers[1].attn.kv_cache.update(torch.ones(rows, 2, 1, 8), torch.ones(rows, 2, 1, 8))
            addresses.add(keys.data_ptr())
            assert keys.shape == (rows, 2, 6, 8)
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


def test_steps_write_their_slots_into_one_tensor():
    cache = KVCache(12)
    cache.start(2, 6, torch.device("cpu"))
    cache.step(torch.tensor([1, 4]), 5)
    where = cache.slots.data_ptr()
    assert cache.slots.tolist() == [1, 10]
    cache.step(torch.tensor([2, 5]), 6)
    assert cache.slots.tolist() == [2, 11]
    assert cache.slots.data_ptr() == where
