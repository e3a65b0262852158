"""Captured decoding steps on a pretend GPU, whose graphs repeat operations on the memory that they had."""

import re
import threading
import time
from dataclasses import replace
from types import SimpleNamespace
from unittest import mock

import pytest
import torch
from torch import nn

from helpers.live_answers import answers_of
from helpers.pretend_cuda import counts, pretend_cuda
from helpers.pretend_graph import Graph
from helpers.pretend_stream import Stream
from helpers.tiny_generation import add_adapters, mixed_requests, tiny_generator, write_images
from medcap.errors import UserError
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.decoding.captured_steps import _free_streams, check_capture
from medcap.generation.decoding.step import DecodingStep
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.models.decoders.transformers_model import TransformersDecoder
from medcap.models.lora_experts import RoutedAdapters


@pytest.fixture(autouse=True)
def no_streams():
    _free_streams.clear()


def capturing(folder, device, **options):
    return capture(tiny_generator(folder, compile=False, **options), device)


def capture(generator, device):
    generator.model.to(device)
    check_capture(generator.model)
    generator._step = DecodingStep(generator.model, compiled=False, captured=True)
    return generator


@pytest.mark.parametrize("batch_size", [1, 4])
def test_answers_are_the_cpus(tmp_path, batch_size):
    requests = mixed_requests(write_images(tmp_path, 2))
    rules = [Sampling(max_new_tokens=6), Sampling(max_new_tokens=4, temperature=1.0, top_p=0.9)]
    plain = tiny_generator(tmp_path, batch_size=4)
    expected = [plain.generate(requests, rule) for rule in rules]
    assert any(len(answer.tokens) > 3 for answer in expected[0])
    with pretend_cuda() as device:
        there = capturing(tmp_path, device, batch_size=batch_size)
        assert [there.generate(requests, rule) for rule in rules] == expected
        assert counts["graphs"] > 10


def test_a_step_is_one_launch_and_what_chooses_its_token(tmp_path):
    (request,) = mixed_requests(write_images(tmp_path, 1))[:1]
    with pretend_cuda() as device:
        generator = capturing(tmp_path, device, batch_size=1)
        generator.tokenizer.stop_tokens = [0]  # nothing ends an answer early
        spent = []
        for new_tokens in (3, 11):
            counts.clear()
            (answer,) = generator.generate([request], Sampling(new_tokens))
            assert len(answer.tokens) == new_tokens
            spent.append(counts.copy())
    of_eight = spent[1] - spent[0]
    assert of_eight["graphs"] == 8
    # Two that copy a graph's inputs; head and choice.
    assert of_eight["kernels"] <= 40 * 8
    assert of_eight["waits"] <= 2 * 8


def test_each_number_of_slots_has_its_own_graph(tmp_path):
    request = question_request(None, "Is there a lung?")
    plain = tiny_generator(tmp_path, decoder_max_seq_len=2048, batch_size=1)
    with pretend_cuda() as device:
        generator = capturing(tmp_path, device, decoder_max_seq_len=2048, batch_size=1)
        for one in (plain, generator):
            one.tokenizer.stop_tokens = [0]
        (found,) = generator.generate([request], Sampling(280))
        assert counts["graphs"] == 279 - 2  # a step that is captured has run before
    assert [found] == plain.generate([request], Sampling(280))


def test_live_answers_are_the_cpus_while_rows_come_and_go(tmp_path):
    requests = [replace(one, id=str(number)) for number, one in enumerate(mixed_requests(write_images(tmp_path, 2)))]
    rules = [Sampling(3 + index, temperature=0.9 * (index % 2), seed=index) for index in range(len(requests))]
    plain = tiny_generator(tmp_path)
    expected = [plain.generate([request], rule)[0] for request, rule in zip(requests, rules, strict=True)]
    with pretend_cuda() as device:
        live = LiveGenerator([capturing(tmp_path, device)], max_rows=2, capacity=128)
        try:
            assert answers_of(live, requests, rules) == expected
        finally:
            live.close()
        assert counts["graphs"] > 10


def test_the_thread_that_answers_uses_the_models_gpu(tmp_path):
    used = []
    with pretend_cuda() as device:
        generator = capturing(tmp_path, device)
        with mock.patch.object(
            torch.cuda, "set_device", lambda one: used.append((one, threading.current_thread().name))
        ):
            LiveGenerator([generator], max_rows=2, capacity=128).close()
    assert used[0] == (torch.device("cuda", 0), "medcap-live")


def test_questions_with_and_without_adapters_have_their_own_graphs(tmp_path):
    rule = Sampling(max_new_tokens=6)
    request = question_request(None, "Is there a circle?")
    both = [request, replace(request, without=("llm_lora",))]
    plain = tiny_generator(tmp_path)
    add_adapters(plain)
    expected = [plain.generate([one], rule)[0] for one in both]
    assert expected[0].tokens != expected[1].tokens
    with pretend_cuda() as device:
        generator = tiny_generator(tmp_path, compile=False)
        add_adapters(generator)
        live = LiveGenerator([capture(generator, device)], max_rows=1, capacity=128)
        try:
            assert answers_of(live, both * 2, [rule] * 4) == expected * 2
        finally:
            live.close()


def test_a_thread_whose_gpu_is_another_one_captures_on_the_models(tmp_path):
    requests, rule = mixed_requests(write_images(tmp_path, 2)), Sampling(max_new_tokens=6)
    expected = tiny_generator(tmp_path, batch_size=4).generate(requests, rule)
    with pretend_cuda() as device:
        generator = capturing(tmp_path, device, batch_size=4)
        torch.cuda.set_device(torch.device("cuda", 1))
        assert generator.generate(requests, rule) == expected
        assert torch.cuda.current_device() == 1


def test_two_models_of_a_server_capture_one_after_the_other(tmp_path, caplog):
    requests, rules = mixed_requests(write_images(tmp_path, 2))[:2], [Sampling(6)] * 2
    plain = tiny_generator(tmp_path)
    expected = [plain.generate([request], rule)[0] for request, rule in zip(requests, rules, strict=True)]
    begin = Graph.begin

    def slowly(graph, pool, stream):
        time.sleep(0.3)
        begin(graph, pool, stream)

    with pretend_cuda() as device, mock.patch.object(Graph, "begin", slowly):
        generators = [capturing(tmp_path, device) for _ in range(2)]
        lives = [LiveGenerator([generator], max_rows=2, capacity=128) for generator in generators]
        try:
            assert [answers_of(live, requests, rules) for live in lives] == [expected] * 2
        finally:
            for live in lives:
                live.close()
    assert "answering failed" not in caplog.text


def test_each_cache_has_a_stream_of_its_own_which_is_handed_on(tmp_path):
    request, rule = question_request(None, "Is there a lung?"), Sampling(6)
    made = []

    def making(device):
        made.append(Stream(device))
        return made[-1]

    with pretend_cuda() as device, mock.patch.object(torch.cuda, "Stream", making):
        outer, inner = (capturing(tmp_path, device, batch_size=1) for _ in range(2))
        expected = outer.generate([request], rule)
        for _ in range(3):
            assert outer.generate([request], rule) == expected
        assert len(made) == 1
        # Another model answers while the graphs of the first one are there.
        between = []
        two = [request, replace(request, without=())]
        outer.generate(two, replace(rule, temperature=1.0), lambda *_: between.extend(inner.generate([request], rule)))
        assert between == expected * 2
        assert len(made) == 2


@pytest.mark.parametrize(
    "error,told",
    [
        (
            RuntimeError("CUDA error: operation not permitted when stream is capturing\nCompile with more."),
            "cuda_graphs: a decoding step cannot be captured (CUDA error: operation not permitted when stream is"
            " capturing): leave it out",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), "the device's memory is too small for 1 rows of 32 tokens"),
    ],
)
def test_a_capture_that_fails_says_what_to_do(tmp_path, error, told):
    with pretend_cuda() as device:
        generator = capturing(tmp_path, device, batch_size=1)
        generator._step.hidden = mock.Mock(side_effect=[torch.zeros(1), torch.zeros(1), error])
        with pytest.raises(UserError, match=re.escape(told)):
            generator.generate([question_request(None, "Is there a lung?")], Sampling(6))


def test_what_cannot_be_captured_is_refused(tmp_path):
    with pytest.raises(UserError, match="cuda_graphs needs a CUDA device, and the model is on cpu: leave it out"):
        tiny_generator(tmp_path, cuda_graphs=True)


@pytest.mark.parametrize(
    "decoder,component,told",
    [
        (TransformersDecoder, nn.Linear, "transformers runs this language model, with a cache of its own"),
        (nn.Linear, RoutedAdapters, "a router chooses among llm_lora.experts in each step"),
    ],
)
def test_steps_that_choose_anew_are_refused(decoder, component, told):
    parts = [kind.__new__(kind) for kind in (decoder, component)]
    model = SimpleNamespace(device=torch.device("cuda"), decoder=parts[0], components={"llm_lora": parts[1]})
    with pytest.raises(UserError, match=told):
        check_capture(model)
