"""Fields of a request that a server does not take."""

import json

import pytest

from helpers.asked_endpoint import ask, endpoint, numbered
from helpers.chat_server import chat_server
from medcap.errors import UserError

pytest.importorskip("openai")


def refuses(*names):
    """A server that refuses fields as OpenAI's do, one at a time."""

    def respond(prompt, number):
        for name in names:
            if name in server.requests[number]:
                error = {"message": f"Unsupported parameter: '{name}'.", "code": "unsupported_parameter", "param": name}
                return 400, json.dumps({"error": error})
        return "RIGHT"

    server = None

    def bind(started):
        nonlocal server
        server = started

    respond.bind = bind
    return respond


@pytest.mark.parametrize(
    ("names", "request_", "sent", "notices"),
    [
        (
            ["max_tokens"],
            {},
            {"temperature": 0, "max_completion_tokens": 9},
            ["the server does not take max_tokens: max_completion_tokens is sent instead"],
        ),
        (
            ["temperature", "max_tokens"],
            {},
            {"max_completion_tokens": 9},
            [
                "the server does not take temperature=0: it is left out",
                "the server does not take max_tokens: max_completion_tokens is sent instead",
            ],
        ),
        (
            ["max_tokens", "max_completion_tokens"],
            {},
            {"temperature": 0},
            [
                "the server does not take max_tokens: max_completion_tokens is sent instead",
                "the server does not take max_completion_tokens=9: it is left out",
            ],
        ),
        (
            ["seed"],
            {"seed": 1, "top_p": 0.5},
            {"temperature": 0, "max_tokens": 9, "top_p": 0.5},
            ["the server does not take seed=1: it is left out"],
        ),
        ([], {"temperature": None, "reasoning_effort": "low"}, {"max_tokens": 9, "reasoning_effort": "low"}, []),
    ],
)
def test_a_field_that_a_server_does_not_take_is_remembered(capsys, names, request_, sent, notices):
    respond = refuses(*names)
    with chat_server(respond) as server:
        respond.bind(server)
        one = endpoint(server.base_url, max_new_tokens=9, request=request_, concurrency=1)
        replies = ask(one, numbered(3))
        assert len(server.requests) == 3 + len(names)
    assert [reply.text for reply in replies] == ["RIGHT"] * 3
    last = {name: value for name, value in server.requests[-1].items() if name not in ("model", "messages")}
    assert last == sent
    assert one.notices == notices
    assert capsys.readouterr().err.splitlines() == [f"note: {notice}" for notice in notices]


@pytest.mark.slow
def test_prompts_that_meet_one_refusal_at_the_same_time_are_all_sent_again():
    respond = refuses("max_tokens", "temperature")
    with chat_server(respond) as server:
        respond.bind(server)
        one = endpoint(server.base_url, concurrency=8)
        assert [reply.text for reply in ask(one, numbered(30))] == ["RIGHT"] * 30
    assert len(one.notices) == 2


def test_settings_name_further_fields_only_where_there_are_some():
    plain = endpoint("http://localhost:8000/v1").settings
    assert plain == {
        "base_url": "http://localhost:8000/v1",
        "model": "judge-model",
        "temperature": 0,
        "max_new_tokens": 200,
    }
    assert endpoint("http://localhost:8000/v1", request={"seed": 1}).settings == {**plain, "request": {"seed": 1}}
    with pytest.raises(UserError, match=r"request\.model: medcap sets model itself; drop it"):
        endpoint("http://localhost:8000/v1", request={"model": "other"})
