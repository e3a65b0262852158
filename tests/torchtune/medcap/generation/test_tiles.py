"""Images of different numbers of pictures in one batch of requests."""

import threading
from contextlib import closing
from functools import partial

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from helpers.tiny_generation import plain_answer, plain_score, tiny_generator
from helpers.waiting import PATIENCE
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.generator import Generator
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling

GREEDY = Sampling(max_new_tokens=6)
# Width, height and number of pictures; the tower's are 8 x 8.
SHAPES = {"wide.png": (40, 16, 4), "tall.png": (9, 24, 4), "square.png": (24, 24, 5), "small.png": (8, 6, 1)}


@pytest.fixture
def generator(tmp_path):
    random = np.random.default_rng(5)
    for name, (width, height, _) in SHAPES.items():
        Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / name)
    return tiny_generator(tmp_path, tiles=4, batch_size=3)


def mixed():
    """Two questions about each image, one about three images, and one about none."""
    requests = [question_request(name, words) for name in SHAPES for words in ("Is there a circle?", "What is it?")]
    several = ["small.png", "wide.png", "tall.png"]
    return [*requests, question_request(several, "Which is clear?"), question_request(None, "What is shown?")]


def test_a_prompt_has_room_for_every_picture(generator):
    prompts = [generator.prompt(request, GREEDY) for request in mixed()]
    pictures = [count for _, _, count in SHAPES.values()]
    lengths = [prompt.image_lengths for prompt in prompts]
    assert lengths == [[3 * count] for count in np.repeat(pictures, 2).tolist()] + [[3, 12, 12], []]


@pytest.mark.slow
def test_a_batch_answers_as_plain_generation_one_by_one(generator):
    expected = [plain_answer(generator, request, 6) for request in mixed()]
    assert [answer.tokens for answer in generator.generate(mixed(), GREEDY)] == expected
    assert len({tuple(tokens) for tokens in expected}) > 7


@pytest.mark.slow
def test_each_picture_is_encoded_once_for_all_questions(generator):
    generator.generate(mixed(), GREEDY)
    assert generator.model.tower.num_seen == sum(count for _, _, count in SHAPES.values())


@pytest.mark.slow
def test_candidates_are_scored_as_one_by_one(generator):
    found = generator.score(mixed(), [["Yes", "No, left"]] * 10)
    for request, scores in zip(mixed(), found, strict=True):
        expected = [plain_score(generator, request, candidate, True)[0] for candidate in ("Yes", "No, left")]
        assert scores.sums == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_an_image_in_memory_and_a_prepared_one_are_the_file(generator, tmp_path):
    (expected,) = generator.generate([question_request("wide.png", "What is it?")], GREEDY)
    with Image.open(tmp_path / "wide.png") as picture:
        shown = [picture, generator.prepare(picture, "any name")]
        found = generator.generate([question_request(image, "What is it?") for image in shown], GREEDY)
        assert [answer.tokens for answer in found] == [expected.tokens] * 2
        # Stored turned: its size is that of the upright picture.
        tags = Image.Exif()
        tags[ExifTags.Base.Orientation] = 8
        picture.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "turned.png", exif=tags)
    with Image.open(tmp_path / "turned.png") as turned:
        requests = [question_request(image, "What is it?") for image in ("turned.png", turned)]
        assert [answer.tokens for answer in generator.generate(requests, GREEDY)] == [expected.tokens] * 2


@pytest.mark.slow
def test_a_server_answers_requests_of_different_shapes_together(generator, tmp_path):
    expected = [answer.tokens for answer in generator.generate(mixed(), GREEDY)]
    found, ended = {}, threading.Semaphore(0)

    def end(index, answer):
        found[index] = answer.tokens
        ended.release()

    with closing(LiveGenerator([generator])) as live:
        for index, request in enumerate(mixed()):
            for part in request.messages[0].content:
                if part["type"] == "image":
                    with Image.open(tmp_path / part["content"]) as picture:
                        part["content"] = generator.prepare(picture, part["content"])
            live.submit(live.prepare(request, GREEDY), lambda token: None, partial(end, index))
        assert all(ended.acquire(timeout=PATIENCE) for _ in expected)
    assert [found[index] for index in range(len(expected))] == expected


def test_an_image_that_cannot_be_read_fails_its_own_request_alone(generator, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no image")
    requests = [question_request(name, "What is it?") for name in ("bad.png", "wide.png", "missing.png")]
    found = generator.generate(requests, GREEDY)
    assert [answer.finish for answer in found] == ["error", "length", "error"]
    assert "is not a readable image" in found[0].error and "missing.png" in found[2].error


def test_an_image_that_changed_after_its_prompt_is_an_error(generator, tmp_path, monkeypatch):
    plain = generator.prompt

    def prompt(*options):
        made = plain(*options)
        Image.new("RGB", (8, 8)).save(tmp_path / "wide.png")
        return made

    monkeypatch.setattr(generator, "prompt", prompt)
    (answer,) = generator.generate([question_request("wide.png", "What is it?")], GREEDY)
    assert (answer.finish, answer.error) == ("error", "an image changed while its request waited: ask again")


def test_a_tokenizer_for_other_tiles_is_refused(generator):
    other = ChatTokenizer(generator.tokenizer.tokenizer, 3)
    with pytest.raises(ValueError, match="tiles are None in the tokenizer"):
        Generator(generator.model, other, generator.preprocess, generator.reader)


def test_pictures_are_encoded_in_batches_of_the_given_size(generator):
    sizes = []
    encode = generator.model.tower.encode_patches
    generator.model.tower.encode_patches = lambda images: (sizes.append(len(images)), encode(images))[1]
    with torch.no_grad(), generator.running() as images:
        keys = generator.prompt(mixed()[8], GREEDY).images
        images.encode(keys)
        assert [images.num_rows(image) for image in keys] == [3, 12, 12]
        assert images.rows_of(keys).shape == (27, 32)
    assert sizes == [3, 3, 3]
