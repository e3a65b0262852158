import json

import pytest

from medcap.serving.api_error import ApiError
from medcap.serving.chat_body import read_chat_body

TURN = {"role": "user", "content": "Is there a mass?"}


def read(data=None, max_messages=8, **fields):
    if data is None:
        data = json.dumps({"model": "m", "messages": [TURN], **fields}).encode()
    return read_chat_body(data, max_messages)


def refusal(data=None, **fields):
    with pytest.raises(ApiError) as raised:
        read(data, **fields)
    assert raised.value.status == 400
    return raised.value.param, raised.value.code


def test_text_and_parts_are_the_same_message():
    parts = {"role": "user", "content": [{"type": "text", "text": TURN["content"]}]}
    assert read() == read(messages=[parts])
    assert read().messages[0].content[0].text == "Is there a mass?"


def test_values_are_read_as_they_are_given():
    body = read(temperature=1, top_p=0.5, top_k=3, seed=-4, stop="\n", stream=True, max_tokens=7)
    assert (body.temperature, body.top_p, body.top_k, body.seed, body.stop) == (1.0, 0.5, 3, -4, ["\n"])
    assert body.stream is True and body.wanted_tokens == 7
    assert read(stop=None).stop == [] and read(stop=["a", "b"]).stop == ["a", "b"]
    assert read(max_tokens=7, max_completion_tokens=5).wanted_tokens == 5


def test_fields_that_ask_for_nothing_are_accepted():
    fields = {
        "n": 1,
        "logprobs": False,
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "presence_penalty": 0,
        "frequency_penalty": 0.0,
        "logit_bias": {},
        "store": False,
        "user": "somebody",
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "stream_options": None,
        "top_logprobs": None,
    }
    assert read(**fields) == read()
    answer = {"role": "assistant", "content": "No.", "refusal": None, "annotations": [], "tool_calls": None}
    assert read(messages=[TURN, answer, TURN]).messages[1].role == "assistant"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "required"),
        ("response_format", {"type": "json_object"}),
        ("presence_penalty", 0.5),
        ("logit_bias", {"5": -100}),
        ("store", True),
        ("modalities", ["audio"]),
    ],
)
def test_what_is_not_done_here_is_refused_by_name(name, value):
    assert refusal(**{name: value}) == (name, "unsupported_value")


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"temprature": 0}, "temprature", "unknown_field"),
        ({"model": None}, "model", "invalid_value"),
        ({"model": 5}, "model", "invalid_value"),
        ({"messages": "hello"}, "messages", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": [TURN] * 9}, "messages", "invalid_value"),
        ({"messages": ["hello"]}, "messages.0", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_field"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{**TURN, "name": "eve"}]}, "messages.0.name", "unsupported_value"),
        ({"messages": [{**TURN, "content": None}]}, "messages.0.content", "invalid_value"),
        ({"messages": [{**TURN, "content": [{"type": "input_audio"}]}]}, "messages.0.content.0.type", "invalid_value"),
        (
            {"messages": [{**TURN, "content": [{"type": "image_url", "image_url": "data:"}]}]},
            "messages.0.content.0.image_url",
            "invalid_value",
        ),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_value"),
        ({"max_tokens": "9"}, "max_tokens", "invalid_value"),
        ({"temperature": -0.1}, "temperature", "invalid_value"),
        ({"temperature": 10**400}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_p": 1.01}, "top_p", "invalid_value"),
        ({"top_k": 0}, "top_k", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stop": [""]}, "stop.0", "invalid_value"),
        ({"stop": "x" * 1000}, "stop.0", "invalid_value"),
        ({"stream": "yes"}, "stream", "invalid_value"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage", "invalid_value"),
    ],
)
def test_values_out_of_range_are_refused_by_name(fields, param, code):
    assert refusal(**fields) == (param, code)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b'{"model": "m", "messages": [], "temperature": NaN}',
        b'{"model": "m", "messages": [], "temperature": Infinity}',
        b'{"model": "\\ud800"}',
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"[" * 100_000 + b"]" * 100_000,
        b"[]",
        b'"text"',
        b"null",
    ],
)
def test_what_is_no_json_object_is_refused(data):
    assert refusal(data) == (None, "invalid_json")


def test_a_body_of_very_many_values_is_refused_before_it_is_parsed():
    assert refusal(b"[" + b"[]," * 300_000 + b"[]]") == (None, "too_many_values")


def test_numbers_of_many_digits_are_refused():
    assert refusal(b'{"model": "m", "messages": [], "seed": ' + b"9" * 100_000 + b"}")[1] in (
        "invalid_json",
        "invalid_value",
    )
