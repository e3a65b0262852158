from functools import partial

import pytest
import torch

from helpers.tiny_generation import mixed_requests, plain_answer, tiny_generator, write_images
from medcap.generation.decoding.decoder import Decoder
from medcap.generation.decoding.sampling import choose_among_likely
from medcap.generation.prompt import caption_request, question_request
from medcap.generation.request import Request, Sampling
from medcap.modules.frozen_linear import LLM_WEIGHTS, quantise_layer

LIMITS = (1, 9, 2, 3, 12, 1, 5)


def uneven_requests(images: list[str]) -> list[Request]:
    requests = mixed_requests(images)
    return [
        Request(request.messages, id=str(position), max_new_tokens=LIMITS[position % len(LIMITS)])
        for position, request in enumerate(requests)
    ]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 4, 7])
def test_refilled_rows_answer_as_if_alone(tmp_path, batch_size):
    requests = uneven_requests(write_images(tmp_path, 3))
    generator = tiny_generator(tmp_path, batch_size=batch_size)
    results = generator.generate(requests, Sampling(max_new_tokens=7))
    assert [result.tokens for result in results] == [
        plain_answer(generator, request, request.max_new_tokens) for request in requests
    ]


def test_a_free_row_is_filled_before_the_others_have_ended(tmp_path):
    images = write_images(tmp_path, 6)
    limits = [11, 2, 2, 2, 2, 2]
    requests = [
        Request(caption_request(image).messages, max_new_tokens=n) for image, n in zip(images, limits, strict=True)
    ]
    generator = tiny_generator(tmp_path, batch_size=2)
    steps = []
    generator.model.decoder.layers[0].register_forward_pre_hook(lambda layer, inputs: steps.append(inputs[0].shape[:2]))
    order = []
    generator.generate(requests, Sampling(), lambda index, _: order.append(index))
    assert order == [1, 2, 3, 4, 5, 0]
    # 10 steps for the longest answer, and the five short ones within them.
    assert sum(shape[1] == 1 for shape in steps) == 10


def test_free_rows_are_dropped_when_nothing_waits(tmp_path):
    images = write_images(tmp_path, 4)
    requests = [
        Request(caption_request(image).messages, max_new_tokens=n)
        for image, n in zip(images, (2, 9, 2, 2), strict=True)
    ]
    generator = tiny_generator(tmp_path, batch_size=4)
    rows = []
    generator.model.decoder.layers[0].register_forward_pre_hook(lambda layer, inputs: rows.append(inputs[0].shape[0]))
    results = generator.generate(requests, Sampling())
    assert rows == [4, 4, *[1] * 7]
    assert results[1].tokens == plain_answer(generator, requests[1], 9)


def test_very_different_lengths_are_answered_apart(tmp_path):
    generator = tiny_generator(tmp_path, batch_size=8, max_batch_tokens=600)
    requests = [question_request(None, "Is there a lung? " * repeat) for repeat in (1, 20, 2, 18, 1, 1)]
    shapes = []
    generator.model.decoder.layers[0].register_forward_pre_hook(
        lambda layer, inputs: shapes.append(inputs[0].shape[:2])
    )
    results = generator.generate(requests, Sampling(max_new_tokens=5))
    assert [result.tokens for result in results] == [plain_answer(generator, request, 5) for request in requests]
    prefills = [shape for shape in shapes if shape[1] > 1]
    assert max(rows * length for rows, length in prefills if length < 60) < 4 * 60


def test_questions_about_an_image_share_its_prefill(tmp_path):
    (image,) = write_images(tmp_path, 1)
    requests = [question_request(image, f"Is there {word}?") for word in ("left lung", "the chest", "a circle")]
    generator = tiny_generator(tmp_path)
    shapes = []
    generator.model.decoder.layers[0].register_forward_pre_hook(
        lambda layer, inputs: shapes.append(inputs[0].shape[:2])
    )
    generator.generate(requests, Sampling(max_new_tokens=2))
    lengths = [len(generator.tokenizer.prompt(request.messages).tokens) for request in requests]
    rows, length = shapes[0]
    assert rows == 1
    assert length < sum(lengths) - 2 * generator.tokenizer.num_image_tokens


@pytest.mark.slow
def test_samples_do_not_depend_on_refills(tmp_path):
    requests = uneven_requests(write_images(tmp_path, 2))
    sampling = Sampling(max_new_tokens=6, temperature=1.5, top_k=20, seed=3)
    together = tiny_generator(tmp_path, batch_size=16).generate(requests, sampling)
    refilled = tiny_generator(tmp_path, batch_size=2).generate(requests, sampling)
    assert [result.tokens for result in together] == [result.tokens for result in refilled]


def test_a_limit_below_one_still_gives_a_token(tmp_path):
    (image,) = write_images(tmp_path, 1)
    request = Request(caption_request(image).messages, max_new_tokens=-3)
    (result,) = tiny_generator(tmp_path).generate([request], Sampling())
    assert (len(result.tokens), result.finish) == (1, "length")


def test_given_words_begin_the_answer(tmp_path):
    (image,) = write_images(tmp_path, 1)
    generator = tiny_generator(tmp_path)
    free = question_request(image, "What is it?")
    given = Request(free.messages, answer_prefix="the left")
    results = generator.generate([given, free], Sampling(max_new_tokens=4))
    assert [result.tokens for result in results] == [plain_answer(generator, request, 4) for request in (given, free)]
    assert results[0].tokens != results[1].tokens


def generator_of(folder, llm_weights, **options):
    generator = tiny_generator(folder, batch_size=4, **options)
    for layer in generator.model.decoder.layers:
        quantise_layer(layer, llm_weights)
    return generator


@pytest.mark.slow
@pytest.mark.parametrize("llm_weights", LLM_WEIGHTS)
def test_compiled_steps_have_few_shapes_and_give_the_same_answers(tmp_path, monkeypatch, llm_weights):
    requests = uneven_requests(write_images(tmp_path, 2))
    expected = generator_of(tmp_path, llm_weights).generate(requests, Sampling(max_new_tokens=7))
    # The graph is captured as for CUDA; generating code for it would take most of a minute here.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager", fullgraph=True))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = generator_of(tmp_path, llm_weights, compile=True)
    assert compiled.generate(requests, Sampling(max_new_tokens=7)) == expected
    # Two sizes of rows, and nothing compiled again as the rows fill, empty and move on.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


@pytest.mark.parametrize("sampling", [Sampling(max_new_tokens=5), Sampling(5, temperature=1.0, top_p=0.9)])
def test_a_step_reads_from_the_device_once(tmp_path, monkeypatch, sampling):
    generator = tiny_generator(tmp_path, batch_size=4)
    requests = [question_request(None, f"Is there {word}?") for word in ("a lung", "a circle", "the chest")]
    reads = []
    for name in ("tolist", "item", "nonzero", "__bool__", "__int__", "__float__", "cpu"):
        plain = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda *a, n=name, p=plain, **k: reads.append(n) or p(*a, **k))
    counts = []
    generator.generate(requests, sampling, on_token=lambda *_: None)  # the prompts
    prefill = Decoder._prefill

    def counted(decoder, trees):
        before = len(reads)
        prefill(decoder, trees)
        counts.append(len(reads) - before)

    monkeypatch.setattr(Decoder, "_prefill", counted)
    reads.clear()
    tokens = []
    answers = generator.generate(requests, sampling, on_token=lambda index, token: tokens.append(token))
    steps = max(len(answer.tokens) + (answer.finish == "stop") for answer in answers)
    assert len(tokens) > 5
    assert len(reads) - sum(counts) <= steps


def test_top_p_that_the_likely_tokens_do_not_reach_is_chosen_for_among_all(tmp_path, monkeypatch):
    requests = [question_request(None, f"Is there {word}?") for word in ("a lung", "a circle", "the chest")]
    sampling = Sampling(max_new_tokens=6, temperature=3.0, top_p=0.95, seed=4)
    expected = tiny_generator(tmp_path, batch_size=3).generate(requests, sampling)
    few = partial(choose_among_likely, num_likely=4)
    monkeypatch.setattr("medcap.generation.decoding.decoder.choose_among_likely", few)
    assert tiny_generator(tmp_path, batch_size=3).generate(requests, sampling) == expected
