import json

import pytest

from medcap.serving.api.api_error import ApiError
from medcap.serving.api.chat_body import read_chat_body

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


@pytest.mark.slow
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
        ({"messages": [{**TURN, "content": None}]}, "messages.0.content", "invalid_value"),
        ({"messages": [{**TURN, "content": [{"type": "input_audio"}]}]}, "messages.0.content.0.type", "invalid_value"),
        (
            {"messages": [{**TURN, "content": [{"type": "image_url", "image_url": 5}]}]},
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
        ({"top_p": -0.1}, "top_p", "invalid_value"),
        ({"top_p": 1.01}, "top_p", "invalid_value"),
        ({"top_k": -2}, "top_k", "invalid_value"),
        ({"without": [1]}, "without.0", "invalid_value"),
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
def test_something_that_is_not_a_json_object_is_refused(data):
    assert refusal(data) == (None, "invalid_json")


def test_a_body_of_very_many_values_is_refused_before_it_is_parsed():
    assert refusal(b"[" + b"[]," * 300_000 + b"[]]") == (None, "too_many_values")


def test_numbers_of_many_digits_are_refused():
    assert refusal(b'{"model": "m", "messages": [], "seed": ' + b"9" * 100_000 + b"}")[1] in (
        "invalid_json",
        "invalid_value",
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content": 5}, "'messages.0.content': it must be text or a list of parts"),
        ({"content": ["hello"]}, "'messages.0.content.0': it must be a JSON object"),
        (
            {"content": [{"type": "image_url", "image_url": 5}]},
            '\'messages.0.content.0.image_url\': it must be an object like {"url": "data:image/png;base64,..."}',
        ),
        ({"a\nb": 1}, "there is no field 'messages.0.a\N{REPLACEMENT CHARACTER}b': leave it out"),
    ],
)
def test_a_mistake_is_reported_in_one_line_without_names_of_ours(change, words):
    with pytest.raises(ApiError) as raised:
        read(messages=[{**TURN, **change}])
    assert raised.value.message == words


def test_an_image_may_be_its_url_alone():
    url = "data:image/png;base64,AAAA"
    alone, whole = (
        read(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": value}]}])
        for value in (url, {"url": url})
    )
    assert alone == whole and alone.messages[0].images[0].image_url.url == url


@pytest.mark.parametrize("content", ["", None, [], [{"type": "text", "text": ""}], ...])
@pytest.mark.parametrize("role", ["assistant", "system", "developer"])
def test_a_turn_of_others_than_the_user_may_be_empty(role, content):
    turn = {"role": role} if content is ... else {"role": role, "content": content}
    body = read(messages=[turn, TURN])
    assert body.messages[0].words == "" and body.prefix == ""
    assert [index for index, _ in body.turns] == ([0, 1] if role == "assistant" else [1])


def test_a_refusal_is_what_the_assistant_said():
    for turn in (
        {"role": "assistant", "content": None, "refusal": "I cannot."},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}]},
    ):
        assert read(messages=[TURN, turn, TURN]).messages[1].words == "I cannot."


def test_the_words_of_parts_are_joined_by_line_breaks():
    parts = [{"type": "text", "text": text} for text in ("a", "b\n", "c", "\nd", "")]
    assert read(messages=[TURN, {"role": "assistant", "content": parts}]).prefix == "a\nb\nc\nd"
