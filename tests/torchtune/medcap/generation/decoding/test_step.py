from functools import partial

import pytest
import torch
from torch._inductor import cpp_builder
from torch._inductor.exc import InvalidCxxCompiler
from torch._inductor.utils import fresh_cache

from helpers import tiny_generation
from helpers.tiny_generation import mixed_requests, tiny_generator, write_images
from medcap.errors import UserError
from medcap.generation.decoding.kv_cache import KVCache, attached
from medcap.generation.decoding.step import DecodingStep
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling


def test_a_compiled_step_reads_little_more_than_what_is_used(tmp_path):
    step = DecodingStep(tiny_generator(tmp_path).model, compiled=True)
    assert [step.slots_read(needed, 4096) for needed in (1, 512, 513, 4000)] == [512, 512, 1024, 4096]
    assert [step.slots_read(needed, 1024) for needed in (1, 540, 1000)] == [256, 768, 1024]
    assert step.slots_read(5, 64) == 64
    assert len({step.slots_read(needed, 131_072) for needed in range(1, 131_073)}) == 8
    plain = DecodingStep(step.model, compiled=False)
    assert plain.slots_read(5, 4096) == 5


def test_the_layers_look_at_fewer_slots_than_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    generator = tiny_generator(tmp_path, decoder_max_seq_len=2048, batch_size=1, compile=True)
    plain, used = KVCache.step, []
    monkeypatch.setattr(
        KVCache, "step", lambda self, positions, n: used.append((n, self.capacity)) or plain(self, positions, n)
    )
    generator.generate([question_request(None, "Is there a lung?")], Sampling(max_new_tokens=600))
    assert {capacity for _, capacity in used} == {1024}
    assert {n for n, _ in used} == {256}


def test_every_size_can_be_compiled_before_the_first_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    generator = tiny_generator(tmp_path, decoder_max_seq_len=2048, batch_size=2, compile=True)
    cache, shapes = KVCache(2 * 1000), []
    plain = DecodingStep.hidden
    monkeypatch.setattr(
        DecodingStep, "hidden", lambda self, *tensors: shapes.append(tensors[1].shape) or plain(self, *tensors)
    )
    with generator.running(), attached(generator.model.decoder, cache):
        generator.decoder(cache, 2, 1000, 50).compile_sizes()
    # The first one takes the memory.
    assert shapes == [(2, 1, slots) for slots in (1, 256, 512, 768, 1000)]


@pytest.mark.slow
@pytest.mark.parametrize("num_layers", [2, 8])
def test_more_layers_compile_no_more(tmp_path, monkeypatch, num_layers):
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    built = tiny_generation.llama3
    monkeypatch.setattr(tiny_generation, "llama3", lambda **shape: built(**(shape | {"num_layers": num_layers})))
    requests = mixed_requests(write_images(tmp_path, 2))
    expected = tiny_generator(tmp_path, batch_size=4).generate(requests, Sampling(max_new_tokens=5))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = tiny_generator(tmp_path, batch_size=4, compile=True)
    assert len(compiled.model.decoder.layers) == num_layers
    assert compiled.generate(requests, Sampling(max_new_tokens=5)) == expected
    # One for each size of rows.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@pytest.mark.slow
def test_a_single_row_compiled_answers_the_same(tmp_path, monkeypatch):
    requests = mixed_requests(write_images(tmp_path, 2))
    expected = tiny_generator(tmp_path, batch_size=1).generate(requests, Sampling(max_new_tokens=5))
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    torch._dynamo.reset()
    found = tiny_generator(tmp_path, batch_size=1, compile=True).generate(requests, Sampling(max_new_tokens=5))
    assert found == expected


def test_a_machine_without_a_compiler_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", missing_compiler)
    torch._dynamo.reset()
    with fresh_cache():
        generator = tiny_generator(tmp_path, compile=True, batch_size=1)
        with pytest.raises(UserError, match="needs a C\\+\\+ compiler on a CPU, and none was found: install g\\+\\+"):
            generator.generate([question_request(None, "Is there a lung?")], Sampling(max_new_tokens=3))


def missing_compiler(*_):
    raise InvalidCxxCompiler
