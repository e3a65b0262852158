"""Generation as a GPU runs it: the CPU's tokens and scores, and at most two waits a decoded token."""

from dataclasses import replace

import pytest
import torch

from helpers.live_answers import answers_of
from helpers.pretend_cuda import counts, pretend_cuda
from helpers.serving import asking, noise_png, running, tiny_service
from helpers.tiny_generation import mixed_requests, tiny_generator, write_images
from medcap.errors import UserError
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.decoding import likelihood
from medcap.generation.prompt import caption_request
from medcap.generation.request import Sampling
from medcap.serving.limits import Limits
from medcap.serving.service import Service

CANDIDATES = ["yes", "no", "a left lung"]


def on_the_gpu(folder, device):
    generator = tiny_generator(folder, batch_size=4, compile=False)
    generator.model.to(device)
    return generator


def test_answers_and_scores_are_the_cpus(tmp_path):
    requests = mixed_requests(write_images(tmp_path, 2))[2:6]
    rules = [Sampling(max_new_tokens=6), Sampling(max_new_tokens=4, temperature=1.0, top_p=0.9)]
    plain = tiny_generator(tmp_path, batch_size=4)
    expected = [plain.generate(requests, rule) for rule in rules]
    scores = plain.score(requests, [CANDIDATES] * len(requests))
    assert any(len(answer.tokens) > 3 for answer in expected[0])
    with pretend_cuda() as device:
        there = on_the_gpu(tmp_path, device)
        assert [there.generate(requests, rule) for rule in rules] == expected
        assert there.score(requests, [CANDIDATES] * len(requests)) == scores


@pytest.mark.parametrize("told", [False, True], ids=["silent", "streamed"])
def test_a_decoded_token_waits_twice_at_most(tmp_path, told):
    (request,) = mixed_requests(write_images(tmp_path, 1))[:1]
    with pretend_cuda() as device:
        generator = on_the_gpu(tmp_path, device)
        # Nothing ends an answer early.
        generator.tokenizer.stop_tokens = [0]
        spent = []
        for new_tokens in (3, 11):
            counts.clear()
            (answer,) = generator.generate(
                [request], Sampling(new_tokens), on_token=(lambda index, token: None) if told else None
            )
            assert len(answer.tokens) == new_tokens
            spent.append(counts.copy())
    of_eight = spent[1] - spent[0]
    assert of_eight["waits"] <= (4 if told else 2) * 8
    # Two layers, embedding, head and choice.
    assert of_eight["kernels"] <= 110 * 8
    assert of_eight["copies to device"] <= 1 * 8
    # Picture, prompt and the end of the answer.
    assert spent[0]["copies to device"] <= 30


def test_live_answers_are_the_cpus_while_rows_come_and_go(tmp_path):
    # What is sampled depends on a request's id.
    requests = [replace(one, id=str(number)) for number, one in enumerate(mixed_requests(write_images(tmp_path, 2)))]
    # Rules of different lengths: a row is taken again while the other goes on.
    rules = [Sampling(3 + index, temperature=0.9 * (index % 2), seed=index) for index in range(len(requests))]
    plain = tiny_generator(tmp_path)
    expected = [plain.generate([request], rule)[0] for request, rule in zip(requests, rules, strict=True)]
    assert len({len(answer.tokens) for answer in expected}) > 3
    with pretend_cuda() as device:
        generator = on_the_gpu(tmp_path, device)
        live = LiveGenerator([generator], max_rows=2, capacity=128)
        try:
            assert answers_of(live, requests, rules) == expected
        finally:
            live.close()


def test_the_server_answers_from_a_gpu(tmp_path):
    (tmp_path / "plain").mkdir()
    questions = [asking("Is there a left lung?", noise_png(1)), asking("What shows the chest?")]
    with running(tiny_service(tmp_path / "plain")) as client:
        expected = [client.chat(question).json["choices"] for question in questions]
    (tmp_path / "there").mkdir()
    with pretend_cuda() as device:
        service = Service({"tiny": on_the_gpu(tmp_path / "there", device)}, Limits(max_new_tokens=32))
        counts.clear()
        with running(service) as client:
            assert [client.chat(question).json["choices"] for question in questions] == expected
        assert counts["kernels"] > 1000
    assert all(len(choices[0]["message"]["content"]) > 3 for choices in expected)


def test_a_prompt_and_its_end_take_few_copies_and_one_wait(tmp_path):
    requests = mixed_requests(write_images(tmp_path, 2))[2:6]
    with pretend_cuda() as device:
        generator = on_the_gpu(tmp_path, device)
        counts.clear()
        generator.generate(requests, Sampling(max_new_tokens=1))
    assert counts["waits"] == 1
    assert counts["copies to device"] <= 11


def test_a_scoring_pass_is_launched_before_the_last_one_is_read(tmp_path, monkeypatch):
    requests = [caption_request(image) for image in write_images(tmp_path, 3)]
    # A tree a pass.
    monkeypatch.setattr(likelihood, "prefill_tokens", lambda device: 1)
    events = []
    run, read = likelihood.run_trees, likelihood._read
    monkeypatch.setattr(likelihood, "run_trees", lambda *args: events.append("launched") or run(*args))
    monkeypatch.setattr(
        likelihood, "_read", lambda scored, finish: events.append(scored and "read") or read(scored, finish)
    )
    expected = tiny_generator(tmp_path).score(requests, [CANDIDATES] * 3)
    events.clear()
    with pretend_cuda() as device:
        generator = on_the_gpu(tmp_path, device)
        counts.clear()
        assert generator.score(requests, [CANDIDATES] * 3) == expected
    assert events == ["launched", None, "launched", "read", "launched", "read", "read"]
    assert counts["waits"] == 3
    # Tokens, what is scored, and the picture.
    assert counts["copies to device"] <= 3 * 3


def test_what_was_scored_before_a_failure_is_told(tmp_path, monkeypatch):
    requests = [caption_request(image) for image in write_images(tmp_path, 2)]
    monkeypatch.setattr(likelihood, "prefill_tokens", lambda device: 1)
    run, passes = likelihood.run_trees, []

    def failing(*args):
        passes.append(args)
        if len(passes) == 2:
            raise torch.OutOfMemoryError
        return run(*args)

    monkeypatch.setattr(likelihood, "run_trees", failing)
    told = []
    with pytest.raises(UserError, match="the device's memory is too small"):
        tiny_generator(tmp_path).score(requests, [CANDIDATES] * 2, on_result=lambda index, scores: told.append(index))
    assert len(told) == 1
