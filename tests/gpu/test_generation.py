"""Answers on a GPU: compiled steps give what eager ones and the CPU give."""

from dataclasses import replace

import pytest
import torch

from helpers.live_answers import answers_of
from helpers.tiny_generation import mixed_requests, tiny_generator, write_images
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.generator import Generator
from medcap.generation.request import Sampling
from medcap.modules.frozen_linear import LLM_WEIGHTS, check_device, quantise_layer


def moved(folder, device, compile, llm_weights="bf16", cuda_graphs=False):
    """The tiny generator, with its model on a device."""
    if cuda_graphs and device.type != "cuda":
        pytest.skip("only a GPU's steps can be captured")
    plain = tiny_generator(folder)
    for layer in plain.model.decoder.layers:
        quantise_layer(layer, llm_weights)
    plain.model.to(device)
    parts = (plain.model, plain.tokenizer, plain.preprocess, plain.reader)
    return Generator(*parts, batch_size=4, compile=compile, cuda_graphs=cuda_graphs, progress=False)


def test_compiled_and_eager_steps_give_the_cpus_answers(device, tmp_path):
    requests = mixed_requests(write_images(tmp_path, 2))
    sampling = Sampling(max_new_tokens=12)
    expected = tiny_generator(tmp_path, batch_size=4).generate(requests, sampling)
    assert any(len(answer.tokens) > 3 for answer in expected)
    assert moved(tmp_path, device, compile=False).generate(requests, sampling) == expected
    assert moved(tmp_path, device, compile=True).generate(requests, sampling) == expected


@pytest.mark.parametrize("compile", [False, True])
def test_captured_steps_give_the_cpus_answers(device, tmp_path, compile):
    requests = mixed_requests(write_images(tmp_path, 2))
    sampling = Sampling(max_new_tokens=12)
    expected = tiny_generator(tmp_path, batch_size=4).generate(requests, sampling)
    captured = moved(tmp_path, device, compile, cuda_graphs=True)
    # The second time in another cache.
    assert [captured.generate(requests, sampling) for _ in range(2)] == [expected] * 2


@pytest.mark.parametrize("llm_weights", [name for name in LLM_WEIGHTS if name != "bf16"])
def test_low_precision_gives_one_answer_compiled_and_eager(device, tmp_path, llm_weights):
    skip_unless_supported(llm_weights, device)
    requests = mixed_requests(write_images(tmp_path, 2))
    # Products of low precision round differently in a compiled step: the first words are the same.
    eager, compiled = (
        moved(tmp_path, device, compile, llm_weights).generate(requests, Sampling(max_new_tokens=2))
        for compile in (False, True)
    )
    same = sum(one.tokens[:1] == other.tokens[:1] for one, other in zip(eager, compiled, strict=True))
    assert same >= len(requests) - 1


def skip_unless_supported(llm_weights, device):
    from medcap.errors import UserError

    try:
        check_device(llm_weights, device)
    except UserError as error:
        pytest.skip(str(error))


def test_scores_are_the_cpus(device, tmp_path):
    requests = mixed_requests(write_images(tmp_path, 2))
    candidates = [["yes", "no", "a left lung"]] * len(requests)
    here = tiny_generator(tmp_path).score(requests, candidates)
    there = moved(tmp_path, device, compile=False).score(requests, candidates)
    for one, other in zip(here, there, strict=True):
        assert one.num_tokens == other.num_tokens
        torch.testing.assert_close(torch.tensor(other.sums), torch.tensor(one.sums), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("compile,cuda_graphs", [(False, False), (True, False), (True, True)])
def test_live_answers_are_the_cpus_while_rows_come_and_go(device, tmp_path, compile, cuda_graphs):
    requests = [replace(one, id=str(number)) for number, one in enumerate(mixed_requests(write_images(tmp_path, 2)))]
    plain = tiny_generator(tmp_path)
    rules = [Sampling(3 + 2 * number) for number in range(len(requests))]
    expected = [plain.generate([request], rule)[0] for request, rule in zip(requests, rules, strict=True)]
    captured = {"cuda_graphs": cuda_graphs}
    live = LiveGenerator([moved(tmp_path, device, compile, **captured)], max_rows=3, capacity=128)
    try:
        # The step is compiled first.
        assert answers_of(live, requests, rules, patience=300) == expected
        assert answers_of(live, requests[::-1], rules[::-1]) == expected[::-1]
    finally:
        live.close()


def test_two_models_are_captured_and_answer_side_by_side(device, tmp_path):
    requests = [replace(one, id=str(number)) for number, one in enumerate(mixed_requests(write_images(tmp_path, 2)))]
    plain = tiny_generator(tmp_path)
    rules = [Sampling(6)] * len(requests)
    expected = [plain.generate([request], rule)[0] for request, rule in zip(requests, rules, strict=True)]
    generators = [moved(tmp_path, device, compile=False, cuda_graphs=True) for _ in range(2)]
    lives = [LiveGenerator([generator], max_rows=3, capacity=512) for generator in generators]
    try:
        assert [answers_of(live, requests, rules, patience=300) for live in lives] == [expected] * 2
        # The graphs of the other one are gone.
        lives[0].close()
        assert answers_of(lives[1], requests, rules) == expected
    finally:
        for live in lives:
            live.close()
