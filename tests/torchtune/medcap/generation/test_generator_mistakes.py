import pytest
import torch

from helpers.tiny_generation import break_first_image, mixed_requests, tiny_generator, write_images
from medcap.errors import UserError
from medcap.generation.generator import Generator
from medcap.generation.prompt import caption_request, question_request
from medcap.generation.request import Request, Sampling

GREEDY = Sampling(max_new_tokens=7)


def tokens_of(generator: Generator, requests: list[Request], sampling: Sampling = GREEDY) -> list[list[int]]:
    return [generation.tokens for generation in generator.generate(requests, sampling)]


@pytest.mark.parametrize("limit", ["decoder_max_seq_len", "max_seq_len"])
def test_too_long_a_prompt_names_the_request_and_the_key(tmp_path, limit):
    generator = tiny_generator(tmp_path, **{limit: 24})
    steps = []
    generator.model.decoder.layers[0].register_forward_pre_hook(lambda *_: steps.append(1))
    requests = [question_request(None, "Is"), question_request(None, "Is there a lung? " * 4, id="row 8")]
    with pytest.raises(UserError, match=r"request row 8: its prompt has \d+ tokens.* 24;.*dataset_max_seq_len"):
        generator.generate(requests, GREEDY)
    assert not steps


def test_damaged_image_is_an_error_of_its_request_alone(tmp_path):
    images = write_images(tmp_path, 2)
    (tmp_path / "cut.png").write_bytes((tmp_path / images[0]).read_bytes()[:150])
    requests = [
        caption_request(images[0]),
        caption_request("cut.png"),
        caption_request("missing.png"),
        question_request("cut.png", "Is there a lung?"),
        caption_request(images[1]),
    ]
    generator = tiny_generator(tmp_path, batch_size=2)
    reported = []
    results = generator.generate(requests, GREEDY, lambda index, generation: reported.append(index))
    assert [result.finish for result in results] == ["length", "error", "error", "error", "length"]
    assert "cut.png" in results[1].error
    assert "missing.png does not exist" in results[2].error
    assert (results[3].text, results[3].tokens) == ("", [])
    assert [result.tokens for result in results if not result.error] == tokens_of(generator, [requests[0], requests[4]])
    assert sorted(reported) == [0, 1, 2, 3, 4]


def test_not_a_number_is_an_error_of_its_request_alone(tmp_path):
    images = write_images(tmp_path, 2)
    generator = tiny_generator(tmp_path)
    expected = tokens_of(generator, [caption_request(images[1])])
    break_first_image(generator)
    broken, healthy = generator.generate([caption_request(image) for image in images], GREEDY)
    assert (broken.finish, broken.error) == ("error", "the model's output is not finite")
    assert [healthy.tokens] == expected


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite_are_an_error(tmp_path, temperature):
    generator = tiny_generator(tmp_path)
    generator.model.decoder.norm.scale.data[3] = torch.nan
    (broken,) = generator.generate([question_request(None, "What is it?")], Sampling(4, temperature=temperature))
    assert (broken.finish, broken.error) == ("error", "the model's output is not finite")


def test_model_is_left_as_it_was_after_an_exception(tmp_path):
    generator = tiny_generator(tmp_path)
    model = generator.model.train()
    modes = {name: module.training for name, module in model.named_modules()}
    assert modes["tower.dropout"]

    def fail(index: int, generation: object) -> None:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        generator.generate(mixed_requests(write_images(tmp_path, 1)), GREEDY, fail)
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert not model.decoder.caches_are_setup()
    assert not model.decoder.caches_are_enabled()


def test_text_with_an_image_character_names_the_request(tmp_path):
    with pytest.raises(UserError, match="request row 3: the text"):
        tiny_generator(tmp_path).generate([question_request(None, "Is \u2460 here?", id="row 3")], GREEDY)


@pytest.mark.parametrize("key", ["batch_size", "max_seq_len", "max_batch_tokens"])
def test_sizes_below_one_are_refused(tmp_path, key):
    generator = tiny_generator(tmp_path)
    with pytest.raises(UserError, match=f"{key}=0"):
        Generator(generator.model, generator.tokenizer, generator.preprocess, generator.reader, **{key: 0})


def test_tokenizer_of_another_projector_is_refused(tmp_path):
    generator = tiny_generator(tmp_path)
    generator.tokenizer.num_image_tokens = 4
    with pytest.raises(ValueError, match="num_image_tokens is 4 in the tokenizer and 3 in the model"):
        Generator(generator.model, generator.tokenizer, generator.preprocess, generator.reader)


def test_lack_of_memory_names_the_batch_size(tmp_path):
    generator = tiny_generator(tmp_path)

    def refuse(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    generator.model.decoder.layers[1].register_forward_pre_hook(refuse)
    with pytest.raises(UserError, match=r"memory is too small for 1 rows.*batch_size=16"):
        generator.generate([question_request(None, "Is?")], GREEDY)


@pytest.mark.parametrize(
    ("text", "reason"), [("a \ud83d", "holds half of a character"), ("see ①", "stands for an image")]
)
def test_words_that_no_tokenizer_can_take_name_the_request(tmp_path, text, reason):
    generator = tiny_generator(tmp_path)
    with pytest.raises(UserError, match=f"request 0: .*{reason}"):
        generator.generate([question_request(None, text)], GREEDY)
    with pytest.raises(UserError, match=f"request 0: .*{reason}"):
        generator.score([question_request(None, "Is it?")], [["no", text]])
