"""Regions in questions: answers are those of a plain pass, whatever else is answered; a bad region fails alone."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchtune.data import Message

from helpers.region_generation import generator_with_regions
from helpers.tiny_generation import write_images
from medcap.data.regions.region import BoxShape, MaskFile, PointShape, Region
from medcap.errors import UserError
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.decoding.prefill import mask_logits
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling

SAMPLING = Sampling(max_new_tokens=6)
LEFT, RIGHT = Region(BoxShape((0, 0, 6, 10))), Region(BoxShape((6, 0, 12, 10)))  # halves of 12 x 10 pixels
QUESTION = "What is <region></region>?"


@torch.no_grad()
def plain_answer(generator, request, halves):
    """The tokens of an answer, each from one pass over the whole conversation; of images in four quarters."""
    model = generator.model.eval()
    prompt = generator.tokenizer.prompt(request.messages)
    pictures = [generator.reader.open(generator.reader.resolve(str(image))) for image in prompt.images]
    rows, patches = model.encode_with_patches(torch.stack([generator.preprocess.transform()(one) for one in pictures]))
    weights = {LEFT: [0.5, 0, 0.5, 0], RIGHT: [0, 0.5, 0, 0.5]}
    regions = [model.region_encoder(patches, torch.tensor([weights[half]]))[0] for half in halves]
    tokens = list(prompt.tokens)
    for _ in range(SAMPLING.max_new_tokens):
        ids = torch.tensor([tokens])
        flat = ids.flatten()
        found = [(flat == id).nonzero().flatten() for id in (model.image_token_id, model.region_token_id)]
        embeddings = model.embed(ids, torch.cat([rows, *regions]), torch.cat(found))
        causal = torch.ones(1, len(tokens), len(tokens), dtype=torch.bool).tril()
        hidden = model.hidden(embeddings, causal, torch.arange(len(tokens))[None])[0, -1:]
        token = int(mask_logits(model, model.unembed(hidden), generator.tokenizer.vocab_size).argmax())
        if token in generator.tokenizer.stop_tokens:
            break
        tokens.append(token)
    return tokens[len(prompt.tokens) :]


@pytest.fixture(scope="module", params=["pooling", "resampler"])
def side(request, tmp_path_factory):
    """A generator, questions about halves of images and about whole ones, the halves, and the answers."""
    folder = tmp_path_factory.mktemp("regions")
    generator = generator_with_regions(folder, request.param)
    images = write_images(folder, 2)
    mask = np.zeros((10, 12), np.uint8)
    mask[:, :6] = 255
    Image.fromarray(mask).save(folder / "left.png")
    asked = []
    for image in images:
        asked += [(question_request(image, QUESTION, regions=[half]), [half]) for half in (LEFT, RIGHT)]
        both = question_request(image, "Is <region></region> like <region></region>?", regions=[RIGHT, LEFT])
        asked += [(both, [RIGHT, LEFT]), (question_request(image, "What is it?"), [])]
    asked.append((question_request(images[0], QUESTION, regions=[Region(MaskFile("left.png"))]), [LEFT]))
    requests, halves = zip(*asked, strict=True)
    return generator, list(requests), halves, generator.generate(list(requests), SAMPLING)


def test_answers_are_those_of_a_plain_pass_and_depend_on_the_region(side):
    generator, requests, halves, answers = side
    for request, half, answer in zip(requests, halves, answers, strict=True):
        assert answer.tokens == plain_answer(generator, request, half), answer.error
    assert answers[0].tokens != answers[1].tokens and answers[4].tokens != answers[5].tokens
    assert answers[-1].tokens == answers[0].tokens


def test_regions_may_be_given_as_rows_have_them():
    wanted = question_request("0.png", QUESTION, regions=[Region(BoxShape((1, 2, 3, 4)))]).messages
    for given in ([1, 2, 3, 4], {"box": [1, 2, 3, 4]}):
        found = question_request("0.png", QUESTION, regions=[given]).messages
        assert [message.content for message in found] == [message.content for message in wanted]
    with pytest.raises(UserError, match="a box is four numbers"):
        question_request("0.png", QUESTION, regions=[[1, 2, 3]])
    with pytest.raises(UserError, match="regions are given and no <region></region> is in the question"):
        question_request("0.png", "What is it?", regions=[[1, 2, 3, 4]])
    with pytest.raises(UserError, match="1 <region></region> in its questions but 2 regions"):
        question_request("0.png", QUESTION, regions=[[1, 2, 3, 4], [1, 2, 3, 4]])


def test_alone_and_scored_and_with_a_damaged_region_beside_them(side):
    generator, requests, _, answers = side
    few = generator_with_regions(generator.reader.roots[0], "pooling", batch_size=1)
    if type(few.model.region_encoder) is type(generator.model.region_encoder):
        assert [one.tokens for one in few.generate(requests[:3], SAMPLING)] == [one.tokens for one in answers[:3]]
    bad = question_request("0.png", QUESTION, regions=[Region(BoxShape((20, 20, 30, 30)))])
    small = question_request("0.png", QUESTION, regions=[Region(MaskFile("0.png"))])
    first, failed, second, coloured = generator.generate([requests[0], bad, requests[1], small], SAMPLING)
    assert [first.tokens, second.tokens] == [answers[0].tokens, answers[1].tokens]
    assert failed.finish == coloured.finish == "error"
    assert failed.error == ("the box of a region [20.0, 20.0, 30.0, 30.0] holds no pixel of its image of 12 x 10")
    candidates = [["yes", "no"]] * 3
    left, worse, right = generator.score([requests[0], bad, requests[1]], candidates)
    assert worse.error == failed.error and left.sums != right.sums
    assert generator.score([requests[0]], [["yes", "no"]])[0].sums == pytest.approx(left.sums, abs=1e-4)


def test_requests_that_come_at_any_time_get_the_same_answers(side):
    generator, requests, _, answers = side
    live = LiveGenerator([generator], max_rows=3, capacity=128)
    results, ended = {}, threading.Semaphore(0)

    def end(index, result):
        results[index] = result
        ended.release()

    picture = generator.reader.open(generator.reader.resolve("0.png"))
    shown = {"type": "image", "content": generator.prepare(picture, "0")}
    for index in range(4):
        parts = [shown if part["type"] == "image" else part for part in requests[index].messages[-1].content]
        asked = replace(requests[index], messages=[Message(role="user", content=parts, masked=True)])
        live.submit(live.prepare(asked, SAMPLING), lambda _: None, lambda one, index=index: end(index, one))
    for _ in range(4):
        assert ended.acquire(timeout=60)
    parts = [shown, {"type": "region", "content": Region(MaskFile("left.png"))}]
    file = replace(requests[0], messages=[Message(role="user", content=parts, masked=True)])
    with pytest.raises(TypeError, match="masks of live requests must be run-lengths"):
        live.prepare(file, SAMPLING)
    live.close()
    assert [results[index].tokens for index in range(4)] == [answer.tokens for answer in answers[:4]]


def test_what_cannot_be_asked_is_refused(side):
    generator, requests, *_ = side
    elsewhere = question_request("0.png", QUESTION, regions=[LEFT])
    parts = [dict(part) for part in elsewhere.messages[-1].content]
    for part in parts:
        if part["type"] == "region":
            part["content"] = Region(PointShape(1, 1, 2), image=1)
    asked = replace(elsewhere, messages=[Message(role="user", content=parts, masked=True)])
    with pytest.raises(UserError, match="request 0: a region lies on image 1, but the question shows 1, numbered from"):
        generator.generate([asked], SAMPLING)
    with pytest.raises(UserError, match="name 1 region, but the model reads none"):
        generator.generate([replace(requests[0], without=("words",))], SAMPLING)
    with pytest.raises(UserError, match="1 <region></region> in its questions but 2 regions"):
        question_request("0.png", QUESTION, regions=[LEFT, RIGHT])
