import gzip
import hashlib
import io
import json
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from helpers.dicom_files import write_dicom
from helpers.serving import LEAK, image_part, noise_png, url_part
from helpers.tiny_generation import tiny_generator
from medcap.data.row_layouts import read_record
from medcap.generation.typed_placeholders import place_images, row_text
from medcap.serving.api.api_error import ApiError
from medcap.serving.api.chat_body import read_chat_body
from medcap.serving.api.conversation_reader import ConversationReader
from medcap.serving.limits import Limits

QUESTION = {"type": "text", "text": "Is there a circle?"}
IMAGE = image_part(noise_png(0))


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    return tiny_generator(tmp_path_factory.mktemp("reader"))


@pytest.fixture(scope="module")
def reader(generator):
    return ConversationReader(generator, Limits(max_pixels=1_000_000, max_images=3, max_body_bytes=2**20))


def body(*messages):
    turns = [
        {"role": "user", "content": message} if isinstance(message, list | str) else message for message in messages
    ]
    return read_chat_body(json.dumps({"model": "m", "messages": turns}).encode(), 99)


def refusal(reader, *messages):
    with pytest.raises(ApiError) as raised:
        reader.read(body(*messages), "req-1")
    assert raised.value.status == 400
    assert LEAK.search(json.dumps(raised.value.body).encode()) is None
    return raised.value.code


def said(role, text):
    return {"role": role, "content": text}


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        ({"value": "<image>\nIs there a circle?"}, [[IMAGE, QUESTION]]),
        ({"value": "<image>"}, [[IMAGE]]),
        ({"value": "Is there a circle?\n<image>"}, [[QUESTION, IMAGE]]),
        ({"value": "Is there a circle?"}, ["Is there a circle?"]),
        ({"value": "<image>\n<image>\nIs there a circle?"}, [[IMAGE, IMAGE, QUESTION]]),
        ({"value": "Is there a circle?\n<image>\n<image>"}, [[QUESTION, IMAGE, IMAGE]]),
        ({"value": "<image>\nIs there a circle?\nYes?"}, [[IMAGE, QUESTION, {"type": "text", "text": "Yes?"}]]),
    ],
)
def test_prompts_have_the_tokens_of_training_records(reader, generator, row, messages):
    turns = [{"from": "human", **row}, {"from": "gpt", "value": "Yes"}]
    record = {"conversations": turns, "image": ["a.png"] * row["value"].count("<image>")}
    trained = read_record(record, "file", 0, lambda path, folder: path)
    chat = generator.tokenizer.tokenize(trained.messages)
    prompt = generator.tokenizer.prompt(reader.read(body(*messages), "req-1")).tokens
    answer = generator.tokenizer.answer("Yes")
    assert [*prompt, *answer] == chat.tokens[: len(prompt) + len(answer)]


@pytest.mark.parametrize(
    ("text", "num_images"),
    [
        ("<image>\nIs there a circle?", 1),
        ("<image> Is there a circle?", 1),
        ("Is there a circle? <image>", 1),
        ("\u2460\u2460 Is there a circle?", 1),
        ("Is \u2460 red?", 1),
        ("Is \u2460 red? <image>", 3),
        ("What is an <image> tag?", 1),
        ("<|image|> What?", 1),
        ("Is there a circle?", 2),
    ],
)
def test_placeholders_in_words_stand_for_the_images_as_in_the_terminal(reader, generator, text, num_images):
    images = [image_part(noise_png(seed)) for seed in range(num_images)]
    (turn,) = reader.read(body([*images, {"type": "text", "text": text}]), "req-1")
    keys = [hashlib.sha256(noise_png(seed)).hexdigest() for seed in range(num_images)]
    content = [part["content"].key if part["type"] == "image" else part["content"] for part in turn.content]
    assert content == [part["content"] for part in place_images(text, keys)]
    row = {"from": "human", "value": row_text(text, num_images)}
    record = {"conversations": [row, {"from": "gpt", "value": "Yes"}], "image": ["a.png"] * num_images}
    trained = read_record(record, "file", 0, lambda path, folder: path)
    prompt = generator.tokenizer.prompt([turn]).tokens
    assert prompt == generator.tokenizer.tokenize(trained.messages).tokens[: len(prompt)]


def test_images_without_a_placeholder_stay_where_they_are(reader):
    parts = [IMAGE, QUESTION, image_part(noise_png(1)), {"type": "text", "text": "And <image>"}]
    (turn,) = reader.read(body(parts), "req-1")
    assert [part["type"] for part in turn.content] == ["image", "text", "text", "image"]
    assert [part["content"] for part in turn.content[1:3]] == ["\nIs there a circle?", "\nAnd\n"]


def shown(reader, *messages):
    return [
        (turn.role, "".join(part["content"] for part in turn.content)) for turn in reader.read(body(*messages), "r")
    ]


def test_an_empty_system_text_is_none_and_an_empty_answer_is_an_empty_turn(reader):
    assert shown(reader, said("system", " "), "a", said("assistant", None), "b") == [
        ("user", "a"),
        ("assistant", ""),
        ("user", "b"),
    ]
    assert shown(reader, "a", said("developer", ""), said("assistant", []), said("assistant", "b"), "c") == [
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]


def test_a_last_turn_of_the_assistant_begins_the_answer_and_is_no_turn(reader):
    for last in ([said("assistant", "Yes,")], [said("assistant", "Yes,"), said("system", "")]):
        asked = body("a", *last)
        assert [turn.role for turn in reader.read(asked, "r")] == ["user"] and asked.prefix == "Yes,"


def test_a_system_text_alone_can_be_answered(reader):
    assert shown(reader, said("system", "Describe the chest.")) == [("system", "Describe the chest.")]


def test_what_is_too_long_is_reported_with_the_models_own_limit(reader):
    with pytest.raises(ApiError, match="with its answer it may have 256 tokens"):
        reader.read(body("a" * 40_000), "req-1")


def test_a_conversation_of_several_turns_has_the_tokens_of_training(reader, generator):
    values = ["<image>\nIs there a circle?", "Yes", "Is the square red?", "No"]
    turns = [{"from": ("human", "gpt")[position % 2], "value": value} for position, value in enumerate(values)]
    system = {"from": "system", "value": "the chest"}
    trained = read_record({"conversations": [system, *turns], "image": "a.png"}, "file", 0, lambda path, folder: path)
    messages = [said("developer", "the chest"), [IMAGE, QUESTION], said("assistant", "Yes"), "Is the square red?"]
    prompt = generator.tokenizer.prompt(reader.read(body(*messages), "req-1")).tokens
    chat = generator.tokenizer.tokenize(trained.messages).tokens
    assert prompt == chat[: len(prompt)] and len(prompt) + len(generator.tokenizer.answer("No")) <= len(chat)


def test_words_that_spell_a_special_token_stay_words(reader, generator):
    plain, spelt = (
        generator.tokenizer.prompt(reader.read(body(text), "req-1")).tokens for text in ("Yes", "<|eot_id|><|image|>")
    )
    special = set(generator.tokenizer.tokenizer.special_tokens.values())
    assert [token for token in spelt if token in special] == [token for token in plain if token in special]


def test_of_an_image_only_the_pixels_of_the_tower_are_kept(reader, generator):
    image = reader.read(body([image_part(noise_png(1, 300, 200))]), "req-1")[0].content[0]["content"]
    assert image.pixels.shape == (3, 8, 8) and image.pixels.dtype.is_floating_point is False
    same = reader.read(body([image_part(noise_png(1, 300, 200))]), "req-1")[0].content[0]["content"]
    other = reader.read(body([image_part(noise_png(2, 300, 200))]), "req-1")[0].content[0]["content"]
    assert image.key == same.key != other.key and len(image.key) == 64


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF"])
def test_formats_are_known_by_their_content_whatever_the_url_says(reader, kind):
    file = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(file, kind)
    for named in ("image/png", "application/octet-stream", "", "image/jpeg;name=a.jpg"):
        assert reader.read(body([image_part(file.getvalue(), named)]), "req-1")


def test_dicom_is_read(reader, tmp_path):
    file = write_dicom(tmp_path / "a.dcm", np.arange(256, dtype=np.uint16).reshape(16, 16))
    assert reader.read(body([image_part(file.read_bytes(), "application/dicom")]), "req-1")


@pytest.mark.parametrize(
    "url",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "../../etc/passwd",
        "http://127.0.0.1:1/a.png",
        "https://example.org/a.png",
        "http:\\\\169.254.169.254\\latest",
        "ftp://example.org/a.png",
        "data:image/png,abc",
        "data:text/html;base64",
        "data:" + "a" * 100_000 + ";base64,AAAA",
        "data:" + ";a=b" * 100_000 + ";base64,AAAA",
        "",
        "\0",
    ],
)
def test_nothing_but_a_data_url_is_taken(reader, url, monkeypatch):
    monkeypatch.setattr("builtins.open", lambda *_, **__: pytest.fail("something was opened"))
    assert refusal(reader, [url_part(url), QUESTION]) == "unsupported_image_url"


def png_header(width, height):
    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes((1 + (width + 7) // 8) * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<!doctype html><script>alert(1)</script>",
        b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
        noise_png(0)[:60],
        noise_png(0, 90, 90)[:-5000],
        b"\x89PNG\r\n\x1a\n" + bytes(100),
        b"%PDF-1.7",
        b"GIF89a",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1",
        b"II*\0" + b"\xff" * 64,
        bytes(128) + b"DICM" + bytes(64),
        gzip.compress(bytes(10_000_000)),
        png_header(10_000, 10_000),
        png_header(1_000_000, 1),
    ],
    ids=range(14),
)
def test_something_that_is_not_an_image_within_bounds_is_refused_without_saying_more(reader, data, caplog):
    with caplog.at_level("INFO"):
        assert refusal(reader, [image_part(data), QUESTION]) == "invalid_image"
    assert "req-1: image refused" in caplog.text


def test_a_large_image_within_bounds_is_read(reader):
    assert reader.read(body([image_part(png_header(1000, 1000))]), "req-1")


@pytest.mark.parametrize(
    ("messages", "code"),
    [
        ([[IMAGE] * 4], "too_many"),
        ([said("assistant", "Yes")], "invalid_value"),
        ([said("system", ""), said("assistant", None)], "invalid_value"),
        (["a", said("system", "b"), "c"], "invalid_value"),
        (["a", said("assistant", "b"), said("assistant", "c"), "d"], "invalid_value"),
        ([said("system", [IMAGE]), "a"], "invalid_value"),
        (["a", said("assistant", [IMAGE]), "a"], "invalid_value"),
        (["\u2460"], "invalid_value"),
        ([said("system", "\ufdd0"), "a"], "invalid_value"),
        ([" \n"], "invalid_value"),
        ([[]], "invalid_value"),
        ([[{"type": "text"}]], "invalid_value"),
        ([[{"type": "image_url"}]], "invalid_value"),
        ([[{**IMAGE, "text": "a"}]], "invalid_value"),
        ([[{"type": "refusal", "refusal": "a"}]], "invalid_value"),
        ([{"role": "user", "content": [], "refusal": "a"}], "invalid_value"),
        (["<image> What?"], "invalid_value"),
        (["What? <image>"], "invalid_value"),
        ([[IMAGE, {"type": "text", "text": "<image> What? \u2460"}]], "invalid_value"),
        ([[IMAGE, QUESTION], said("assistant", "Yes"), "<image> And this?"], "invalid_value"),
        (["a", said("assistant", "\u2460"), "b"], "invalid_value"),
        (["a\ufdd1"], "invalid_value"),
        (["a" * 40_000], "context_length_exceeded"),
    ],
)
def test_turns_out_of_place_are_refused(reader, messages, code):
    assert refusal(reader, *messages) == code
