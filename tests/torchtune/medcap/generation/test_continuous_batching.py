import threading
import time
from dataclasses import replace
from functools import partial

import pytest
import torch

from helpers.live_answers import with_pixels
from helpers.tiny_generation import add_adapters, mixed_requests, plain_answer, tiny_generator, write_images
from helpers.waiting import PATIENCE
from medcap.data.row_layouts import PLACEHOLDER
from medcap.errors import UserError
from medcap.generation import continuous_batching as live
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.generator import Generator
from medcap.generation.prompt import caption_request, question_request
from medcap.generation.request import Sampling
from medcap.models.vision_language_model import VisionLanguageModel

SAMPLED = Sampling(max_new_tokens=9, temperature=1.3, top_k=25, seed=4)


class Answers:
    """Submits requests and collects what comes back."""

    def __init__(self, generator):
        self.live = generator
        self.tokens = {}
        self.results = {}
        self.order = []
        self.done = threading.Condition()

    def submit(self, name, request, sampling, index=0):
        prompt = self.live.prepare(with_pixels(self.live.generators[index], request), sampling, index)
        self.tokens[name] = []
        return self.live.submit(prompt, self.tokens[name].append, lambda answer: self._end(name, answer), index)

    def wait(self, count):
        with self.done:
            assert self.done.wait_for(lambda: len(self.results) >= count, timeout=PATIENCE)
        return self.results

    def _end(self, name, answer):
        with self.done:
            self.results[name] = answer
            self.order.append(name)
            self.done.notify()


@pytest.fixture
def start():
    """Starts live generators and ends them."""
    started = []

    def begin(*generators, **options):
        started.append(LiveGenerator(generators, **options))
        return Answers(started[-1])

    yield begin
    for generator in started:
        generator.close(now=True)


def hold(generator):
    """Have the model wait at its first layer until the returned event is set."""
    event, reached = threading.Event(), threading.Event()

    def wait(*_):
        reached.set()
        assert event.wait(PATIENCE)

    generator.model.decoder.layers[0].register_forward_pre_hook(wait)
    return event, reached


@pytest.mark.slow
@pytest.mark.parametrize("max_rows", [1, 3, 16])
def test_answers_are_those_of_each_request_alone(tmp_path, start, max_rows):
    generator = tiny_generator(tmp_path)
    requests = mixed_requests(write_images(tmp_path, 3))
    answers = start(generator, max_rows=max_rows, capacity=200)
    threads = [
        threading.Thread(target=answers.submit, args=(number, request, Sampling(max_new_tokens=3 + number)))
        for number, request in enumerate(requests)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    results = answers.wait(len(requests))
    alone = tiny_generator(tmp_path)
    for number, request in enumerate(requests):
        assert results[number].tokens == plain_answer(alone, request, 3 + number)
        assert answers.tokens[number] == results[number].tokens


def test_each_request_has_its_own_rule_and_seed(tmp_path, start):
    generator = tiny_generator(tmp_path)
    request = caption_request(write_images(tmp_path, 1)[0], id="same")
    rules = [
        Sampling(max_new_tokens=9),
        SAMPLED,
        Sampling(max_new_tokens=9, temperature=1.3, top_k=25, seed=5),
        Sampling(max_new_tokens=9, temperature=0.7, top_p=0.9),
    ]
    expected = [tiny_generator(tmp_path).generate([request], rule)[0] for rule in rules]
    event, reached = hold(generator)
    answers = start(generator)
    answers.submit("first", request, rules[0])
    assert reached.wait(PATIENCE)
    for number, rule in enumerate(rules):
        answers.submit(number, request, rule)
    event.set()
    results = answers.wait(5)
    assert [results[number] for number in range(4)] == expected
    assert len({tuple(result.tokens) for result in expected}) == 4


@pytest.mark.slow
def test_a_request_joins_while_another_is_decoded(tmp_path, start):
    generator = tiny_generator(tmp_path)
    images = write_images(tmp_path, 2)
    answers = start(generator, max_rows=4)
    long, short = caption_request(images[0]), caption_request(images[1])
    begun = threading.Event()
    rows = []
    generator.model.decoder.layers[0].register_forward_pre_hook(lambda layer, inputs: rows.append(inputs[0].shape[:2]))
    prompt = answers.live.prepare(with_pixels(generator, long), Sampling(max_new_tokens=150))
    answers.live.submit(prompt, lambda token: begun.set(), lambda answer: answers._end("long", answer))
    assert begun.wait(PATIENCE)
    answers.submit("short", short, Sampling(max_new_tokens=2))
    answers.wait(2)
    assert answers.order == ["short", "long"]
    # Alone, then together, then alone again: a row exists only as long as it is needed.
    counts = [shape[0] for shape in rows if shape[1] == 1]
    assert counts[0] == 1 and 2 in counts and counts[-1] == 1
    assert len(answers.results["long"].tokens) == 150


@pytest.mark.slow
def test_compiled_steps_keep_their_shape_as_requests_come_and_go(tmp_path, start, monkeypatch):
    requests = mixed_requests(write_images(tmp_path, 2))
    alone = tiny_generator(tmp_path)
    expected = [plain_answer(alone, request, 2 + number) for number, request in enumerate(requests)]
    # torch 2.11: where the thread that compiles has started autograd, the process dies in a backward after its end.
    torch.ones(1, requires_grad=True).sum().backward()
    # The graph is captured as for CUDA; generating code for it would take most of a minute here.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    answers = start(tiny_generator(tmp_path, compile=True), max_rows=4, capacity=128)
    for number, request in enumerate(requests):
        answers.submit(number, request, Sampling(max_new_tokens=2 + number))
        answers.wait(number // 3)
    results = answers.wait(len(requests))
    assert [results[number].tokens for number in range(len(requests))] == expected
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_what_is_cancelled_hears_no_more_and_frees_its_row(tmp_path, start):
    generator = tiny_generator(tmp_path)
    image = write_images(tmp_path, 1)[0]
    event, reached = hold(generator)
    answers = start(generator, max_rows=1)
    running = answers.submit("running", caption_request(image), Sampling(max_new_tokens=100))
    assert reached.wait(PATIENCE)
    waiting = answers.submit("waiting", caption_request(image), Sampling(max_new_tokens=100))
    answers.submit("last", caption_request(image), Sampling(max_new_tokens=3))
    assert answers.live.num_waiting == 2
    answers.live.cancel(running)
    answers.live.cancel(waiting)
    event.set()
    results = answers.wait(1)
    assert list(results) == ["last"] and len(answers.tokens["running"]) <= 1
    answers.live.cancel(running)
    answers.submit("after", caption_request(image), Sampling(max_new_tokens=3))
    assert answers.wait(2)["after"] == results["last"]


def test_runs_that_share_a_language_model_are_decoded_in_one_batch(tmp_path, start):
    first = tiny_generator(tmp_path)
    torch.manual_seed(3)
    projector = type(first.model.projector)()
    model = VisionLanguageModel(first.model.tower, projector, first.model.decoder, first.tokenizer.image_token_id)
    second = Generator(model, first.tokenizer, first.preprocess, first.reader, progress=False)
    request = caption_request(write_images(tmp_path, 1)[0])
    expected = [generator.generate([request], Sampling(max_new_tokens=9))[0] for generator in (first, second)]
    assert expected[0].tokens != expected[1].tokens
    answers = start(first, second)
    rows = []
    first.model.decoder.layers[0].register_forward_pre_hook(lambda layer, inputs: rows.append(inputs[0].shape[0]))
    event, reached = hold(first)
    answers.submit("hold", request, Sampling(max_new_tokens=1))
    assert reached.wait(PATIENCE)
    answers.submit(0, request, Sampling(max_new_tokens=9), index=0)
    answers.submit(1, request, Sampling(max_new_tokens=9), index=1)
    event.set()
    results = answers.wait(3)
    assert [results[0], results[1]] == expected
    assert 2 in rows


def test_runs_over_two_language_models_are_refused(tmp_path):
    with pytest.raises(ValueError, match="must share their language model"):
        LiveGenerator([tiny_generator(tmp_path), tiny_generator(tmp_path)])


def test_closing_finishes_what_was_begun(tmp_path):
    generator = tiny_generator(tmp_path)
    requests = mixed_requests(write_images(tmp_path, 1))
    answers = Answers(LiveGenerator([generator], max_rows=1))
    for number, request in enumerate(requests):
        answers.submit(number, request, Sampling(max_new_tokens=5))
    answers.live.close()
    assert len(answers.results) == len(requests)
    assert not any(result.error for result in answers.results.values())
    assert not answers.live.is_healthy
    answers.submit("late", requests[0], Sampling(max_new_tokens=5))
    assert answers.results["late"].error == live.CLOSING


def test_closing_now_ends_what_was_begun_with_an_error(tmp_path):
    generator = tiny_generator(tmp_path)
    requests = mixed_requests(write_images(tmp_path, 1))
    event, reached = hold(generator)
    answers = Answers(LiveGenerator([generator], max_rows=1))
    for number, request in enumerate(requests):
        answers.submit(number, request, Sampling(max_new_tokens=50))
    assert reached.wait(PATIENCE)
    closing = threading.Thread(target=answers.live.close, args=(True,))
    closing.start()
    time.sleep(0.05)
    event.set()
    closing.join(PATIENCE)
    assert [answers.results[number].error for number in range(len(requests))] == [live.CLOSING] * len(requests)
    # The model is left as it was found.
    assert generator.model.decoder.layers[0].attn.kv_cache is None


@pytest.mark.parametrize(
    ("error", "reason"), [(torch.OutOfMemoryError("no"), live.OUT_OF_MEMORY), (RuntimeError("secret"), live.FAILED)]
)
def test_a_failure_ends_those_that_are_decoded_and_no_others(tmp_path, start, error, reason):
    generator = tiny_generator(tmp_path)
    image = write_images(tmp_path, 1)[0]
    expected = generator.generate([caption_request(image)], Sampling(max_new_tokens=4))[0]
    answers = start(generator)
    failures = [error] * (live.MAX_FAILURES - 1)

    def fail(*_):
        if failures:
            raise failures.pop()

    generator.model.decoder.layers[1].register_forward_pre_hook(fail)
    for number in range(live.MAX_FAILURES - 1):
        answers.submit(number, caption_request(image), Sampling(max_new_tokens=4))
        assert answers.wait(number + 1)[number].error == reason
    assert answers.live.is_healthy
    answers.submit("after", caption_request(image), Sampling(max_new_tokens=4))
    assert answers.wait(live.MAX_FAILURES)["after"] == expected
    failures += [error] * live.MAX_FAILURES
    for number in range(live.MAX_FAILURES):
        answers.submit(f"again {number}", caption_request(image), Sampling(max_new_tokens=4))
        answers.wait(live.MAX_FAILURES + 1 + number)
    assert not answers.live.is_healthy


def test_a_listener_that_fails_harms_nobody(tmp_path, start):
    generator = tiny_generator(tmp_path)
    image = write_images(tmp_path, 1)[0]
    answers = start(generator)

    def fail(*_):
        raise RuntimeError("the listener is gone")

    prompt = answers.live.prepare(with_pixels(generator, caption_request(image)), Sampling(max_new_tokens=4))
    answers.live.submit(prompt, fail, fail)
    answers.submit("other", caption_request(image), Sampling(max_new_tokens=4))
    assert answers.wait(1)["other"].error == ""
    assert answers.live.is_healthy


def test_a_row_is_never_overrun(tmp_path, start):
    generator = tiny_generator(tmp_path)
    request = question_request(write_images(tmp_path, 1)[0], "Is there a circle in it?")
    tokens = len(generator.tokenizer.prompt(request.messages).tokens)
    answers = start(generator, capacity=tokens + 5)
    answers.submit("cut", request, Sampling(max_new_tokens=100))
    result = answers.wait(1)["cut"]
    assert (len(result.tokens), result.finish) == (5, "length")
    assert result.tokens == plain_answer(tiny_generator(tmp_path), request, 5)
    with pytest.raises(UserError, match=f"and a row has {tokens + 5}"):
        answers.submit("long", question_request(None, "lung " * tokens), Sampling())


def test_requests_that_cannot_be_answered_are_refused_before_they_wait(tmp_path, start):
    generator = tiny_generator(tmp_path, max_seq_len=60)
    image = write_images(tmp_path, 1)[0]
    answers = start(generator)
    with pytest.raises(UserError, match="leaves no room for an answer"):
        answers.submit("long", question_request(image, "lung " * 80), Sampling())
    with pytest.raises(UserError, match="stands for an image"):
        answers.submit("mark", question_request(None, f"what {PLACEHOLDER}"), Sampling())
    # [Contract] whatever a client sends, no path is opened.
    with pytest.raises(TypeError, match="must be prepared"):
        answers.live.prepare(caption_request(image), Sampling())


def test_requests_with_and_without_adapters_are_answered_as_alone(tmp_path, start):
    generator = tiny_generator(tmp_path)
    add_adapters(generator)
    sampling = Sampling(max_new_tokens=6)
    request = question_request(None, "Is there a circle?")
    bare = replace(request, without=("llm_lora",))
    with_them, without = (generator.generate([one], sampling)[0].tokens for one in (request, bare))
    assert with_them != without
    answers = start(generator, max_rows=4, capacity=200)
    event, reached = hold(generator)
    for name, one in enumerate((request, bare, request, bare)):
        prompt = answers.live.prepare(one, sampling)
        answers.tokens[name] = []
        answers.live.submit(prompt, answers.tokens[name].append, partial(answers._end, name))
    assert reached.wait(PATIENCE)
    event.set()
    results = answers.wait(4)
    assert [results[name].tokens for name in range(4)] == [with_them, without] * 2
    with pytest.raises(UserError, match="without=projector: this model has no such component"):
        answers.live.prepare(replace(request, without=("projector",)), sampling)
