import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image
from torchtune.data import Message

from helpers.tiny_generation import FAMILIES, mixed_requests, plain_answer, tiny_generator, write_images
from medcap.data.images.reference import ImageRef
from medcap.generation.generator import Generator
from medcap.generation.prompt import caption_request, question_request
from medcap.generation.request import Request, Sampling
from medcap.modules.frozen_linear import quantise_layer

GREEDY = Sampling(max_new_tokens=7)


def tokens_of(generator: Generator, requests: list[Request], sampling: Sampling = GREEDY) -> list[list[int]]:
    return [generation.tokens for generation in generator.generate(requests, sampling)]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_batched_answers_equal_plain_generation_one_by_one(tmp_path, family):
    requests = mixed_requests(write_images(tmp_path, 2))
    generator = tiny_generator(tmp_path, family, batch_size=5)
    expected = [plain_answer(generator, request, 7) for request in requests]
    assert tokens_of(generator, requests) == expected
    assert len({tuple(tokens) for tokens in expected}) > len(expected) // 2
    assert {len(set(tokens)) > 1 for tokens in expected} == {True}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_answers_do_not_depend_on_batch_size_and_order(tmp_path, batch_size):
    requests = mixed_requests(write_images(tmp_path, 2))
    expected = tokens_of(tiny_generator(tmp_path, batch_size=4), requests)
    generator = tiny_generator(tmp_path, batch_size=batch_size)
    order = torch.randperm(len(requests), generator=torch.Generator().manual_seed(batch_size)).tolist()
    shuffled = tokens_of(generator, [requests[index] for index in order])
    assert shuffled == [expected[index] for index in order]


@pytest.mark.slow
def test_one_generator_gives_the_same_answers_again(tmp_path):
    requests = mixed_requests(write_images(tmp_path, 1))
    generator = tiny_generator(tmp_path, batch_size=2)
    assert generator.generate(requests, GREEDY) == generator.generate(requests, GREEDY)


def test_a_path_and_its_reference_are_the_same_image(tmp_path):
    (name,) = write_images(tmp_path, 1)
    generator = tiny_generator(tmp_path)
    (expected,) = tokens_of(generator, [caption_request(name)])
    before = generator.model.tower.num_seen
    shown = [name, Path(name), ImageRef(name)]
    assert tokens_of(generator, [caption_request(image) for image in shown]) == [expected] * 3
    assert generator.model.tower.num_seen - before == 1


def test_several_images_and_turns_in_one_request(tmp_path):
    images = write_images(tmp_path, 3)
    turns = [
        Message(role="user", content=[{"type": "image", "content": image} for image in images[:2]]),
        Message(role="assistant", content="Normal chest"),
        Message(
            role="user", content=[{"type": "image", "content": images[2]}, {"type": "text", "content": "\nIs it?"}]
        ),
    ]
    requests = [Request(turns), caption_request(images[1])]
    generator = tiny_generator(tmp_path)
    assert tokens_of(generator, requests) == [plain_answer(generator, request, 7) for request in requests]


def test_image_matters(tmp_path):
    images = write_images(tmp_path, 6)
    answers = tokens_of(tiny_generator(tmp_path), [caption_request(image) for image in images])
    assert len({tuple(answer) for answer in answers}) > 1


def test_picture_in_memory_equals_its_file(tmp_path):
    (path,) = write_images(tmp_path, 1)
    generator = tiny_generator(tmp_path)
    picture = generator.reader.open(tmp_path / path)
    by_path, in_memory = tokens_of(generator, [caption_request(path), caption_request(picture)])
    assert by_path == in_memory


def test_results_come_in_order_and_are_reported_once_each_as_they_end(tmp_path):
    requests = mixed_requests(write_images(tmp_path, 2))
    reported = []
    results = tiny_generator(tmp_path, batch_size=3).generate(
        requests, GREEDY, lambda index, generation: reported.append((index, generation))
    )
    assert len(reported) == len(requests)
    assert [generation for _, generation in sorted(reported, key=lambda pair: pair[0])] == results


def test_stop_token_ends_a_row_and_is_left_out(tmp_path):
    requests = mixed_requests(write_images(tmp_path, 2))
    generator = tiny_generator(tmp_path, batch_size=4)
    free = generator.generate(requests, GREEDY)
    common = Counter(token for generation in free for token in generation.tokens[1:6]).most_common(2)
    generator.tokenizer.stop_tokens = [token for token, _ in common]
    stopped = generator.generate(requests, GREEDY)
    finishes = Counter(generation.finish for generation in stopped)
    assert finishes["stop"] > 1
    assert finishes["length"] > 1
    for before, after in zip(free, stopped, strict=True):
        stops = [position for position, token in enumerate(before.tokens) if token in generator.tokenizer.stop_tokens]
        assert after.tokens == (before.tokens[: stops[0]] if stops else before.tokens)
        assert after.finish == ("stop" if stops else "length")
        assert after.text == generator.tokenizer.decode(after.tokens)


def test_batch_ends_when_all_its_rows_have_stopped(tmp_path):
    requests = [caption_request(image) for image in write_images(tmp_path, 3)]
    generator = tiny_generator(tmp_path)
    free = generator.generate(requests, GREEDY)
    generator.tokenizer.stop_tokens = [generation.tokens[1] for generation in free]
    steps = []
    generator.model.decoder.layers[0].register_forward_pre_hook(lambda layer, inputs: steps.append(inputs[0].shape[1]))
    stopped = generator.generate(requests, Sampling(max_new_tokens=100))
    assert max(len(generation.tokens) for generation in stopped) == 1
    assert steps[1:] == [1]


def test_logits_are_computed_for_the_last_positions_only(tmp_path):
    generator = tiny_generator(tmp_path)
    shapes = []
    generator.model.decoder.output.register_forward_pre_hook(lambda head, inputs: shapes.append(inputs[0].shape))
    generator.generate([question_request(None, "What?"), question_request(None, "Is there no lung?")], GREEDY)
    assert set(shapes) == {(2, 32)}


def test_room_limits_the_answer(tmp_path):
    request = question_request(None, "Is there a lung?")
    prompt_length = len(tiny_generator(tmp_path).tokenizer.prompt(request.messages).tokens)
    longer = question_request(None, "Is there")
    generator = tiny_generator(tmp_path, max_seq_len=prompt_length + 3)
    limited, roomy = generator.generate([request, longer], GREEDY)
    assert (len(limited.tokens), limited.finish) == (3, "length")
    assert limited.tokens == plain_answer(tiny_generator(tmp_path), request, 3)
    assert roomy.tokens == plain_answer(tiny_generator(tmp_path), longer, len(roomy.tokens))


def test_sliding_window_layers_are_not_used_beyond_their_window(tmp_path):
    assert tiny_generator(tmp_path, "gemma2", max_seq_len=256).max_seq_len == 128


@pytest.mark.slow
def test_image_is_encoded_once_for_all_its_questions(tmp_path):
    requests = mixed_requests(write_images(tmp_path, 3))
    generator = tiny_generator(tmp_path, batch_size=2)
    generator.generate(requests, GREEDY)
    assert generator.model.tower.num_seen == 3


@pytest.mark.slow
def test_forbidden_ids_are_never_produced(tmp_path):
    requests = mixed_requests(write_images(tmp_path, 1))
    generator = tiny_generator(tmp_path, extra_rows=5, batch_size=4)
    expected = tokens_of(generator, requests)
    plain = generator.model.unembed

    def tempting(hidden: torch.Tensor) -> torch.Tensor:
        logits = plain(hidden)
        logits[:, generator.tokenizer.vocab_size :] += 100
        logits[:, generator.tokenizer.image_token_id] += 100
        return logits

    generator.model.unembed = tempting
    assert tokens_of(generator, requests) == expected


@pytest.mark.slow
@pytest.mark.parametrize("filters", [{}, {"top_k": 20}, {"top_p": 0.9}, {"top_k": 40, "top_p": 0.8}])
def test_samples_do_not_depend_on_the_batch(tmp_path, filters):
    requests = mixed_requests(write_images(tmp_path, 2))
    requests = [dataclasses.replace(request, id=f"row {index}") for index, request in enumerate(requests)]
    sampling = Sampling(max_new_tokens=5, temperature=1.5, seed=3, **filters)
    together = tokens_of(tiny_generator(tmp_path, batch_size=64), requests, sampling)
    backwards = tokens_of(tiny_generator(tmp_path, batch_size=3), requests[::-1], sampling)[::-1]
    assert together == backwards
    alone = [tokens_of(tiny_generator(tmp_path), [request], sampling)[0] for request in requests[::6]]
    assert together[::6] == alone


def test_seed_and_id_decide_a_sample(tmp_path):
    generator = tiny_generator(tmp_path)
    sampling = Sampling(max_new_tokens=8, temperature=2.0, seed=3)
    requests = [question_request(None, "What?", id=name) for name in ("a", "b", "a")]
    first, other, repeated = tokens_of(generator, requests, sampling)
    assert first == repeated
    assert first != other
    assert tokens_of(generator, requests, dataclasses.replace(sampling, seed=4))[0] != first
    unnamed = tokens_of(generator, [dataclasses.replace(request, id="") for request in requests], sampling)
    assert len({tuple(tokens) for tokens in unnamed}) == 3


def test_top_k_one_equals_greedy(tmp_path):
    requests = mixed_requests(write_images(tmp_path, 1))
    generator = tiny_generator(tmp_path)
    sampling = Sampling(max_new_tokens=7, temperature=3.0, top_k=1)
    assert tokens_of(generator, requests, sampling) == tokens_of(generator, requests)


def test_each_part_gets_its_own_mode_back(tmp_path):
    generator = tiny_generator(tmp_path)
    generator.model.train()
    generator.model.tower.frozen_norm.eval()
    requests = [caption_request(image) for image in write_images(tmp_path, 1)]
    first = tokens_of(generator, requests)
    assert generator.model.tower.dropout.training
    assert not generator.model.tower.frozen_norm.training
    assert tokens_of(generator, requests) == first


def test_training_continues_after_generation(tmp_path):
    generator = tiny_generator(tmp_path)
    generator.generate([caption_request(image) for image in write_images(tmp_path, 1)], GREEDY)
    model = generator.model.train()
    rows = model.encode_images(torch.full((1, 3, 8, 8), 255, dtype=torch.uint8))
    tokens = torch.full((1, 3), model.image_token_id)
    hidden = model.hidden(model.embed(tokens, rows, torch.arange(3)), None, torch.arange(3)[None])
    model.unembed(hidden).sum().backward()
    assert model.projector.linear.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in model.decoder.parameters())


@pytest.mark.slow
def test_bfloat16_decoder_answers_deterministically(tmp_path):
    requests = mixed_requests(write_images(tmp_path, 1))
    generator = tiny_generator(tmp_path, batch_size=4)
    generator.model.decoder.to(torch.bfloat16)
    first = tokens_of(generator, requests)
    assert tokens_of(generator, requests) == first
    assert {len(tokens) for tokens in first} == {7}


@pytest.mark.slow
@pytest.mark.parametrize("llm_weights", ["fp8", "int8", "nf4"])
def test_low_precision_layers_answer_as_plain_generation_with_them(tmp_path, llm_weights):
    requests = mixed_requests(write_images(tmp_path, 2))
    generator = tiny_generator(tmp_path, batch_size=5)
    before = tokens_of(generator, requests)
    for layer in generator.model.decoder.layers:
        quantise_layer(layer, llm_weights)
    answers = tokens_of(generator, requests)
    assert answers == [plain_answer(generator, request, 7) for request in requests]
    assert answers != before


def test_no_requests_no_work(tmp_path):
    assert tiny_generator(tmp_path).generate([], GREEDY) == []


@pytest.mark.slow
def test_token_bounded_batches_give_the_same_answers(tmp_path):
    requests = mixed_requests(write_images(tmp_path, 1))
    bounded = tiny_generator(tmp_path, batch_size=4, max_batch_tokens=100)
    assert tokens_of(bounded, requests) == tokens_of(tiny_generator(tmp_path, batch_size=4), requests)


def test_equal_requests_are_computed_once_unless_sampled(tmp_path):
    (image,) = write_images(tmp_path, 1)
    requests = [question_request(None, "Is there a lung?", id=str(index)) for index in range(4)]
    requests += [caption_request(image, id="image"), caption_request(image, id="again")]
    generator = tiny_generator(tmp_path)
    rows = []
    generator.model.decoder.layers[0].register_forward_pre_hook(lambda layer, inputs: rows.append(len(inputs[0])))
    reported = []
    results = generator.generate(requests, GREEDY, lambda index, _: reported.append(index))
    assert max(rows) == 2
    assert sorted(reported) == list(range(6))
    assert results[0] == results[3]
    assert results[4] == results[5]
    assert results[0] != results[4]
    scores = generator.score(requests, [["no", "yes"]] * 6)
    assert scores[0] == scores[3]
    sampled = generator.generate(requests, Sampling(max_new_tokens=7, temperature=2.0))
    assert len({tuple(result.tokens) for result in sampled[:4]}) > 1


def test_a_request_of_its_own_limit_gets_one_token_at_least(tmp_path):
    (image,) = write_images(tmp_path, 1)
    messages = caption_request(image).messages
    requests = [Request(messages, max_new_tokens=limit) for limit in (-6, 3, None, 3)]
    generator = tiny_generator(tmp_path)
    results = generator.generate(requests, GREEDY)
    assert [len(result.tokens) for result in results] == [1, 3, 7, 3]
    assert results[1].tokens == plain_answer(generator, requests[0], 3)


def test_equal_words_about_different_images_are_different_requests(tmp_path):
    images = write_images(tmp_path, 3)
    generator = tiny_generator(tmp_path)
    picture = generator.reader.open(tmp_path / images[0])
    requests = [question_request(image, "Is there a lung?") for image in [*images, images[1], picture]]
    expected = [plain_answer(generator, request, 7) for request in requests[:4]]
    assert tokens_of(generator, requests) == [*expected, expected[0]]
    assert expected[1] != expected[0]


def test_equal_questions_with_other_candidates_are_scored_each(tmp_path):
    requests = [question_request(None, "Is there a lung?", id=str(index)) for index in range(3)]
    generator = tiny_generator(tmp_path)
    reported = []
    scores = generator.score(
        requests, [["no", "yes"], ["yes", "no"], ["no", "yes"]], on_result=lambda index, _: reported.append(index)
    )
    assert sorted(reported) == [0, 1, 2]
    assert scores[0] == scores[2]
    assert scores[0].sums == pytest.approx(scores[1].sums[::-1], abs=1e-4)
    assert scores[0].sums[0] != pytest.approx(scores[0].sums[1], abs=1e-2)


def test_tokens_are_reported_as_they_are_chosen(tmp_path):
    images = write_images(tmp_path, 2)
    generator = tiny_generator(tmp_path, batch_size=2)
    # The first and the last are equal and computed once.
    requests = [*mixed_requests(images), mixed_requests(images)[0]]
    told = [[] for _ in requests]
    ended = []

    def on_token(index, token):
        assert index not in ended
        told[index].append(token)

    results = generator.generate(requests, Sampling(max_new_tokens=6), lambda index, _: ended.append(index), on_token)
    assert told == [result.tokens for result in results]


def test_a_prepared_image_gives_the_answer_of_its_file(tmp_path):
    (image,) = write_images(tmp_path, 1)
    generator = tiny_generator(tmp_path)
    with Image.open(tmp_path / image) as picture:
        prepared = generator.prepare(picture, "any name")
    expected, found = generator.generate(
        [caption_request(image), caption_request(prepared)], Sampling(max_new_tokens=5)
    )
    assert found == expected
