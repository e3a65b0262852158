"""Regions of requests: read as in rows, refused in one clear line, and answered as generation answers them."""

import base64
import io
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.region_generation import generator_with_regions
from helpers.serving import LEAK, Client, image_part, noise_png, running
from helpers.tiny_generation import tiny_generator
from medcap.data.regions.region import BoxShape, Region, region_from_json
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.serving.api.api_error import ApiError
from medcap.serving.api.chat_body import read_chat_body
from medcap.serving.api.conversation_reader import ConversationReader
from medcap.serving.limits import Limits
from medcap.serving.service import Service

PICTURE = noise_png(0)  # 12 x 10 pixels
IMAGE = image_part(PICTURE)
QUESTION = "What is <region></region>?"
LEFT, RIGHT = {"box": [0, 0, 6, 10]}, {"box": [6, 0, 12, 10]}
RUN = {"size": [10, 12], "counts": [60, 60]}  # the right half


def url_of(values, kind="PNG"):
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


RIGHT_MASK = np.zeros((10, 12), np.uint8)
RIGHT_MASK[:, 6:] = 3


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    """A server with one run that reads regions and one that does not."""
    folder = tmp_path_factory.mktemp("regions")
    (folder / "0.png").write_bytes(PICTURE)
    generators = {"reads": generator_with_regions(folder), "plain": tiny_generator(folder)}
    with running(Service(generators, Limits(max_new_tokens=6))) as found:
        found.generators = generators
        yield found


def turn(*regions, text=QUESTION, role="user"):
    return {"role": role, "content": [IMAGE, {"type": "text", "text": text}], "regions": list(regions)}


def reply(client: Client, *turns, model="reads", **fields):
    return client.request("POST", "/v1/chat/completions", {"model": model, "messages": list(turns), **fields})


def generated(client, *regions, text=QUESTION):
    request = question_request("0.png", text, regions=regions)
    return client.generators["reads"].generate([request], Sampling(max_new_tokens=6))[0].text


def test_answers_are_those_of_generation(client):
    left, right = (region_from_json(value) for value in (LEFT, RIGHT))
    for value, region in ((LEFT, left), (RIGHT, right)):
        answer = reply(client, turn(value)).json["choices"][0]["message"]["content"]
        assert answer == generated(client, region)
    assert generated(client, left) != generated(client, right)
    for same in (
        [6, 0, 12, 10],
        {"polygon": [[6, 0], [12, 0], [12, 10], [6, 10]]},
        {"mask": RUN},
        RUN,
        {"mask": url_of(RIGHT_MASK)},
        {"mask": url_of(RIGHT_MASK), "value": 3},
        url_of(RIGHT_MASK),
    ):
        assert reply(client, turn(same)).json["choices"][0]["message"]["content"] == generated(client, right), same


def test_regions_of_several_turns_and_the_real_client(client):
    turns = [turn(LEFT), {"role": "assistant", "content": "a lung"}]
    turns += [{"role": "user", "content": "Or <region></region>?", "regions": [RIGHT]}]
    chat = client.openai().chat.completions.create(model="reads", messages=turns, stream=True)
    words = "".join(chunk.choices[0].delta.content or "" for chunk in chat)
    assert words == reply(client, *turns).json["choices"][0]["message"]["content"]
    exchanged = [turn(RIGHT), turns[1], {**turns[2], "regions": [LEFT]}]
    assert words != reply(client, *exchanged).json["choices"][0]["message"]["content"]


def test_a_prompt_with_regions_is_that_of_generation(tmp_path):
    generator = generator_with_regions(tmp_path)
    body = read_chat_body(json.dumps({"model": "m", "messages": [turn(LEFT)]}).encode(), 9)
    (message,) = ConversationReader(generator, Limits()).read(body, "r")
    asked = question_request("0.png", QUESTION, regions=[Region(BoxShape((0, 0, 6, 10)))])
    prompts = [generator.tokenizer.prompt([one]) for one in (message, asked.messages[0])]
    assert prompts[0].tokens == prompts[1].tokens and prompts[0].regions == prompts[1].regions


BAD = [
    ([turn()], "'messages.0.content' has 1 <region></region> and 'messages.0.regions' 0 regions"),
    ([turn(LEFT, RIGHT)], "has 1 <region></region> and 'messages.0.regions' 2 regions: give each its region"),
    ([turn(text="<region>masks/a.png</region>")], "this server opens no file"),
    ([turn("masks/a.png")], "'messages.0.regions.0.mask' must be a data URL with base64"),
    ([turn({"mask": "/etc/passwd"})], "this server fetches no address and opens no file"),
    ([turn({"mask": "http://example.org/a.png"})], "must be a data URL"),
    ([turn({"mask": "data:image/png;base64,aGFsbG8="})], "it must be a whole picture (PNG, TIFF, BMP, GIF, JPEG)"),
    ([turn({"mask": url_of(np.zeros((10, 12, 3), np.uint8) + np.arange(3, dtype=np.uint8))})], "one value a pixel"),
    ([turn({"mask": url_of(RIGHT_MASK), "value": 2})], "'messages.0.regions.0': the run-length of a region holds no"),
    ([turn({"mask": url_of(RIGHT_MASK[:5])})], "has 12 x 5 pixels and its image 12 x 10: a mask has the size of the"),
    ([turn({"mask": {"size": [5000, 9000], "counts": "1"}})], "has 9000 x 5000 pixels and its image 12 x 10"),
    ([turn({"mask": {"size": [10, 12], "counts": "1"}})], "but its size [10, 12] has 120"),
    ([turn({"mask": {"size": [10, 12], "counts": ["x"]}})], "'messages.0.regions.0' holds"),
    ([turn({"box": [20, 20, 30, 30]})], "holds no pixel of its image of 12 x 10"),
    ([turn({"box": [5, 0, 2, 9]})], "which has no area: x1 < x2 and y1 < y2 are needed"),
    ([turn({"point": [5, 5]})], "a point is 'point' [x, y] and 'radius', above 0, in pixels"),
    ([turn({"polygon": [[0, 0], [9, 9]]})], "a polygon is at least three points"),
    ([turn({"polygon": [[n % 12, n % 7] for n in range(1001)]})], "a polygon of 1001 points; at most 1000 are taken"),
    ([turn({"ring": 3})], "a region has one of box, point, polygon, mask"),
    ([turn(7)], "'messages.0.regions.0' holds 7: a region is"),
    ([turn({**LEFT, "image": 1})], "'messages.0.regions.0' lies on image 1, and the request has 1, numbered from 0"),
    ([turn({**LEFT, "image": -1})], "images have whole numbers from 0"),
    ([turn(*[LEFT] * 17, text=QUESTION * 17)], "there are 17 regions; at most 16 are taken"),
    (
        [turn(LEFT), {"role": "assistant", "content": "a", "regions": [LEFT]}],
        "only the user's messages may hold regions",
    ),
    ([{**turn(), "regions": LEFT}], "'messages.0.regions'"),
]


@pytest.mark.parametrize(("turns", "words"), BAD)
def test_a_mistake_is_one_clear_refusal(client, turns, words):
    found = reply(client, *turns)
    assert found.status == 400 and words in found.error["message"] and "\n" not in found.error["message"]
    assert found.error["param"].startswith("messages")


def test_a_model_without_an_encoder_refuses_regions_and_reads_the_words(client):
    found = reply(client, turn(LEFT), model="plain")
    assert found.status == 400 and "this model reads no regions, as it has no region_encoder" in found.error["message"]
    assert reply(client, turn(), model="plain").status == 200
    without = reply(client, turn(LEFT), without=["words"])
    assert without.status == 400 and "without words this model reads no regions" in without.error["message"]


def test_a_region_on_a_slice_counts_the_pictures(client):
    nibabel = pytest.importorskip("nibabel")
    values = np.random.default_rng(0).integers(0, 99, (12, 10, 4)).astype(np.int16)
    volume = image_part(nibabel.Nifti1Image(values, np.eye(4)).to_bytes()) | {"view": {"frames": "all"}}
    asked = {"role": "user", "content": [volume, {"type": "text", "text": QUESTION}]}
    assert reply(client, {**asked, "regions": [{**LEFT, "image": 3}]}).status == 200
    found = reply(client, {**asked, "regions": [{**LEFT, "image": 4}]})
    assert found.status == 400 and "the request has 4, numbered from 0" in found.error["message"]


def test_refusals_tell_nothing_of_the_machine(client):
    for turns, _ in BAD:
        assert LEAK.search(reply(client, *turns).body.replace(b"/etc/passwd", b"")) is None


NUMBERS = st.integers(-(2**70), 2**70) | st.integers(-3, 12) | st.floats() | st.none() | st.text(max_size=3)
LISTS = st.lists(NUMBERS | st.lists(NUMBERS, max_size=3), max_size=5)
RUNS = st.fixed_dictionaries({"size": st.just([10, 12]) | LISTS, "counts": st.text(max_size=6) | LISTS})
VALUES = NUMBERS | LISTS | RUNS | st.sampled_from(["a.png", "data:,", "data:image/png;base64,AAAA"])
KEYS = st.sampled_from(["box", "point", "radius", "polygon", "mask", "value", "label", "image", "size", "counts"])


@settings(max_examples=150, deadline=None)
@given(value=st.dictionaries(KEYS, VALUES, max_size=3) | VALUES)
def test_whatever_comes_as_a_region_is_answered_or_refused(client, value):
    try:
        body = json.dumps({"model": "reads", "messages": [turn(value)], "max_tokens": 1}, allow_nan=False).encode()
    except ValueError:
        return
    found = client.request("POST", "/v1/chat/completions", body)
    assert found.status in (200, 400), found.body
    assert found.status == 200 or ("\n" not in found.error["message"] and LEAK.search(found.body) is None)


def test_too_large_a_mask_is_refused_before_it_is_decoded(tmp_path):
    reader = ConversationReader(generator_with_regions(tmp_path), Limits(max_pixels=200))
    body = {"model": "m", "messages": [turn({"mask": url_of(np.ones((20, 20), np.uint8))})]}
    with pytest.raises(ApiError, match="of at most 200 pixels"):
        reader.read(read_chat_body(json.dumps(body).encode(), 9), "r")
