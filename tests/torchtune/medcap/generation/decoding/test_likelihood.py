import pytest
import torch

from helpers.tiny_generation import FAMILIES, break_first_image, plain_score, tiny_generator, write_images
from medcap.errors import UserError
from medcap.generation.prompt import caption_request, question_request
from medcap.generation.request import Request

OPTIONS = ["left lung", "left", "a small red circle", "no"]


def scored_requests(images: list[str]) -> tuple[list[Request], list[list[str]]]:
    words = ["left lung", "a small red circle", "the chest"]
    requests = [question_request(image, f"Is there {word}?") for image in images for word in words]
    requests += [question_request(None, f"What shows {word}?") for word in words] + [caption_request(images[0])]
    return requests, [OPTIONS[: 1 + position % len(OPTIONS)] for position in range(len(requests))]


@pytest.mark.parametrize("end_of_turn", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_one_forward_pass_a_candidate(tmp_path, family, end_of_turn):
    requests, candidates = scored_requests(write_images(tmp_path, 2))
    generator = tiny_generator(tmp_path, family)
    scores = generator.score(requests, candidates, end_of_turn)
    for request, texts, result in zip(requests, candidates, scores, strict=True):
        expected = [plain_score(generator, request, text, end_of_turn) for text in texts]
        assert result.num_tokens == [count for _, count in expected]
        torch.testing.assert_close(result.sums, [total for total, _ in expected], rtol=1e-4, atol=1e-4)
    assert scores[0].means == [total / count for total, count in zip(scores[0].sums, scores[0].num_tokens, strict=True)]


@pytest.mark.parametrize("end_of_turn", [True, False])
def test_given_words_are_not_scored(tmp_path, end_of_turn):
    (image,) = write_images(tmp_path, 1)
    generator = tiny_generator(tmp_path)
    plain = question_request(image, "What is it?")
    given = Request(plain.messages, answer_prefix="the left")
    whole, first = (
        generator.score([plain], [[text]], end)[0] for text, end in (("the left lung.", True), ("the", False))
    )
    (result,) = generator.score([given], [[" lung.", " chest."]], end_of_turn)
    expected = plain_score(generator, given, " lung.", end_of_turn)
    assert (result.sums[0], result.num_tokens[0]) == (pytest.approx(expected[0], abs=1e-4), expected[1])
    if end_of_turn:
        assert result.sums[0] > whole.sums[0]
        assert result.num_tokens[0] < whole.num_tokens[0]
    assert first.num_tokens[0] >= 1


def test_the_end_of_the_turn_tells_a_beginning_from_the_whole(tmp_path):
    (image,) = write_images(tmp_path, 1)
    generator = tiny_generator(tmp_path)
    request = question_request(image, "Where?")
    (ended,) = generator.score([request], [["left", "left lung"]])
    (open_end,) = generator.score([request], [["left", "left lung"]], end_of_turn=False)
    assert open_end.sums[0] > open_end.sums[1]
    assert ended.num_tokens == [count + 1 for count in open_end.num_tokens]


def test_scores_do_not_depend_on_the_other_requests(tmp_path):
    requests, candidates = scored_requests(write_images(tmp_path, 3))
    together = tiny_generator(tmp_path).score(requests, candidates)
    alone = tiny_generator(tmp_path, batch_size=1)
    for request, texts, result in zip(requests, candidates, together, strict=True):
        torch.testing.assert_close(alone.score([request], [texts])[0].sums, result.sums, rtol=1e-4, atol=1e-4)


def test_image_and_shared_beginning_are_computed_once(tmp_path):
    images = write_images(tmp_path, 2)
    requests, candidates = scored_requests(images)
    requests, candidates = requests[:6], [OPTIONS] * 6
    generator = tiny_generator(tmp_path)
    tokens = []
    generator.model.decoder.layers[0].register_forward_pre_hook(lambda layer, inputs: tokens.append(inputs[0].numel()))
    generator.score(requests, candidates)
    assert generator.model.tower.num_seen == 2
    prompts = [len(generator.tokenizer.prompt(request.messages).tokens) for request in requests]
    leaves = sum(len(generator.tokenizer.answer(text)) - 1 for text in OPTIONS)
    assert sum(tokens) // 32 < sum(prompts) + 6 * leaves - 2 * 2 * generator.tokenizer.num_image_tokens


def test_results_are_reported_as_they_come(tmp_path):
    requests, candidates = scored_requests(write_images(tmp_path, 2))
    reported = {}
    results = tiny_generator(tmp_path).score(requests, candidates, on_result=reported.__setitem__)
    assert [reported[index] for index in range(len(requests))] == results


def test_damaged_image_is_an_error_of_its_requests_alone(tmp_path):
    images = write_images(tmp_path, 1)
    (tmp_path / "cut.png").write_bytes((tmp_path / images[0]).read_bytes()[:150])
    requests = [question_request(image, "Is it?") for image in ("cut.png", images[0], "missing.png")]
    cut, whole, missing = tiny_generator(tmp_path).score(requests, [["yes", "no"]] * 3)
    assert "cut.png" in cut.error
    assert "missing.png does not exist" in missing.error
    assert (cut.sums, cut.means, whole.error, len(whole.sums)) == ([], [], "", 2)


def test_not_a_number_is_an_error_of_its_request_alone(tmp_path):
    images = write_images(tmp_path, 2)
    generator = tiny_generator(tmp_path)
    break_first_image(generator)
    broken, healthy = generator.score([caption_request(image) for image in images], [["no"]] * 2)
    assert (broken.error, healthy.error) == ("the model's output is not finite", "")


@pytest.mark.parametrize("texts", [[], ["left", " "]])
def test_empty_candidates_are_refused_before_anything_is_computed(tmp_path, texts):
    generator = tiny_generator(tmp_path)
    requests = [question_request(None, "Is?"), question_request(None, "Is?", id="row 8")]
    with pytest.raises(UserError, match="request row 8: there are no candidates to score, or one of them is empty"):
        generator.score(requests, [["no"], texts])


def test_too_long_a_candidate_names_the_request_and_the_key(tmp_path):
    generator = tiny_generator(tmp_path, max_seq_len=30)
    with pytest.raises(UserError, match=r"request 0: .* tokens, more than 30; raise dataset_max_seq_len"):
        generator.score([question_request(None, "Is?")], [["no", "lung " * 30]])


def test_lack_of_memory_is_said(tmp_path):
    generator = tiny_generator(tmp_path)

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    generator.model.decoder.layers[1].register_forward_pre_hook(refuse)
    with pytest.raises(UserError, match=r"memory is too small for a row of \d+ tokens"):
        generator.score([question_request(None, "Is?")], [["no"]])


def test_no_requests_no_work(tmp_path):
    assert tiny_generator(tmp_path).score([], []) == []
