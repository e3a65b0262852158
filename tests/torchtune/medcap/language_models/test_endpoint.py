import json
import threading
import time
from email.utils import formatdate

import pytest

from helpers.asked_endpoint import ask, endpoint, numbered
from helpers.chat_server import chat_server, completion, nobody_there
from helpers.waiting import PATIENCE
from medcap.errors import UserError
from medcap.language_models.base import NOT_SENT, Prompt, Turn

pytest.importorskip("openai")

KEY = "sk-a-very-secret-key"


@pytest.mark.slow
def test_a_request_is_greedy_and_a_reply_keeps_its_place():
    with chat_server(lambda prompt, _: f" RIGHT {prompt} ") as server:
        replies = ask(endpoint(server.base_url, api_key=KEY, max_new_tokens=7), numbered(20))
    assert [reply.text for reply in replies] == [f"RIGHT prompt {position}" for position in range(20)]
    assert {(reply.finish, reply.num_tokens, reply.error) for reply in replies} == {("stop", 2, "")}
    first = next(request for request in server.requests if request["messages"][0]["content"] == "prompt 0")
    assert first == {
        "model": "judge-model",
        "messages": [{"role": "user", "content": "prompt 0"}],
        "temperature": 0,
        "max_tokens": 7,
    }
    assert set(server.keys) == {f"Bearer {KEY}"}


def test_so_many_prompts_wait_at_the_same_time():
    four_are_there = threading.Barrier(4)

    def slow(prompt, _):
        if prompt.startswith("prompt"):
            four_are_there.wait(PATIENCE)
        time.sleep(0.05)
        return "RIGHT"

    with chat_server(slow) as server:
        ask(endpoint(server.base_url, concurrency=4), numbered(12))
        assert server.most_at_once == 4
        server.most_at_once = 0
        ask(endpoint(server.base_url, concurrency=1), ["one", "two", "three"])
        assert server.most_at_once == 1


def test_key_and_address_come_from_the_environment(monkeypatch):
    with chat_server(lambda *_: "WRONG") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("MY_KEY", KEY)
        assert ask(endpoint(None, api_key_env="MY_KEY"), ["q"])[0].text == "WRONG"
        assert server.keys == [f"Bearer {KEY}"]


def test_without_a_key_a_server_of_ones_own_is_asked_and_openai_is_not():
    with chat_server(lambda *_: "WRONG") as server:
        ask(endpoint(server.base_url), ["q"])
        assert server.keys == ["Bearer none"]
    with pytest.raises(UserError, match=r"there is no key for https://api\.openai\.com/v1: .* OPENAI_API_KEY"):
        endpoint(None)


def test_what_may_pass_is_tried_again():
    answers = [(500, "{}"), (429, '{"error": {"message": "slow down"}}'), "RIGHT"]
    with chat_server(lambda _, number: answers[number]) as server:
        (reply,) = ask(endpoint(server.base_url), ["q"])
    assert reply.text == "RIGHT"
    assert len(server.requests) == 3


def test_tries_end_and_the_prompt_fails():
    def respond(prompt, _):
        return (503, '{"error": {"message": "busy"}}') if prompt == "prompt 1" else "RIGHT"

    with chat_server(respond) as server:
        replies = ask(endpoint(server.base_url, concurrency=1), numbered(3))
    assert [reply.text for reply in replies] == ["RIGHT", "", "RIGHT"]
    assert replies[1].error == "status 503: busy (3 tries)"
    assert server.prompts == ["prompt 0", *["prompt 1"] * 3, "prompt 2"]


@pytest.mark.slow
def test_a_slow_server_is_a_timeout_of_that_prompt_only():
    asked = threading.Event()

    def respond(prompt, _):
        if prompt == "prompt 1":
            asked.wait(PATIENCE)
        return "RIGHT"

    with chat_server(respond) as server:
        replies = ask(endpoint(server.base_url, concurrency=1, timeout=1.0, retries=1), numbered(3))
        asked.set()
    assert [reply.error for reply in replies] == ["", "no answer within timeout=1 s (2 tries)", ""]


def test_a_request_that_the_server_refuses_is_not_tried_again():
    def respond(prompt, _):
        return (400, '{"error": {"message": "too\\nlong"}}') if prompt == "prompt 0" else "RIGHT"

    with chat_server(respond) as server:
        replies = ask(endpoint(server.base_url, concurrency=1), numbered(2))
    assert replies[0].error == "status 400: too long"
    assert replies[1].text == "RIGHT"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "body",
    [
        "<html>login</html>",
        '"RIGHT"',
        "{}",
        '{"choices": []}',
        '{"choices": null}',
        '{"choices": {"0": 1}}',
        '{"choices": [{}]}',
    ],
)
def test_something_that_is_not_a_completion_is_a_failure(body):
    with chat_server(lambda prompt, _: (200, body) if prompt == "prompt 1" else "RIGHT") as server:
        replies = ask(endpoint(server.base_url, concurrency=1, retries=0), numbered(2))
    assert replies[1].error == "what came back is not a chat completion"


def test_an_empty_completion_is_an_empty_reply():
    with chat_server(lambda *_: (200, completion(None, "length"))) as server:
        (reply,) = ask(endpoint(server.base_url), ["q"])
    assert (reply.text, reply.finish, reply.error) == ("", "length", "")


def test_parts_of_reasoning_are_left_out():
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "WRONG?"}]}, {"type": "text", "text": "RIGHT"}]
    with chat_server(lambda *_: (200, completion(parts))) as server:
        (reply,) = ask(endpoint(server.base_url), ["q"])
    assert (reply.text, reply.error) == ("RIGHT", "")


@pytest.mark.slow
@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("form", ["seconds", "date", "milliseconds", "reset"])
def test_the_pause_that_a_server_asks_for_is_waited_for(capsys, status, form):
    refused, both_are_there = {}, threading.Barrier(2)

    def respond(prompt, number):
        if prompt in refused:
            return "RIGHT" if time.monotonic() >= refused[prompt] + 1 else (400, "too early")
        both_are_there.wait(PATIENCE)
        refused[prompt] = time.monotonic()
        headers = {
            "seconds": {"Retry-After": "1.1"},
            "date": {"Retry-After": formatdate(time.time() + 2.5, usegmt=True)},
            "milliseconds": {"Retry-After-Ms": "1100", "Retry-After": "7"},
            "reset": {"X-RateLimit-Reset-Requests": "1s100ms"},
        }
        return status, '{"error": {"message": "slow down"}}', headers[form]

    with chat_server(respond) as server:
        replies = ask(endpoint(server.base_url, retries=1), numbered(2))
        assert len(server.requests) == 4
    assert [reply.text for reply in replies] == ["RIGHT", "RIGHT"]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("note: the endpoint asks to wait ")
    assert lines[0].endswith(f" s (status {status})")


def test_a_pause_that_is_too_long_fails_at_once_and_is_reported():
    body = '{"error": {"message": "quota"}}'
    with (
        chat_server(lambda *_: (429, body, {"Retry-After": "3600"})) as server,
        pytest.raises(UserError, match=r"status 429: quota; the server asks to wait 3600 s, more than the 120 s"),
    ):
        ask(endpoint(server.base_url), ["q"])
    assert len(server.requests) == 1


@pytest.mark.slow
def test_an_endpoint_that_is_down_ends_the_run_after_a_few_prompts():
    replies = []
    down = nobody_there()
    with pytest.raises(UserError) as error:
        endpoint(down, concurrency=2, retries=1).ask(numbered(1000), lambda position, reply: replies.append(reply))
    message = str(error.value)
    assert "\n" not in message
    assert f"the endpoint {down} does not reply (no connection" in message
    assert "the base URL (it mostly ends in /v1)" in message
    assert "replies so far are kept" in message
    assert len(replies) == 3


@pytest.mark.parametrize(("status", "path"), [(401, ""), (404, "/nowhere")])
def test_a_wrong_key_or_path_ends_the_run_without_further_tries(status, path):
    with chat_server(lambda *_: (401, '{"error": {"message": "bad key"}}')) as server:
        with pytest.raises(UserError, match=f"does not reply .status {status}.*the key in OPENAI_API_KEY"):
            ask(endpoint(server.base_url + path, concurrency=1), numbered(100))
        assert len(server.requests) <= 4


def test_an_endpoint_that_goes_away_fails_the_rest_and_stops_sending(capsys):
    def respond(_, number):
        return "RIGHT" if number < 5 else (502, "{}")

    with chat_server(respond) as server:
        replies = ask(endpoint(server.base_url, concurrency=1, retries=0), numbered(60))
        assert 25 <= len(server.requests) < 40  # some were on their way
    assert [reply.text for reply in replies] == ["RIGHT"] * 5 + [""] * 55
    assert all(reply.error for reply in replies[5:])
    assert replies[-1].error.startswith("not sent, the endpoint had failed 20 times in a row: status 502")
    assert capsys.readouterr().err.count("note: the endpoint failed 20 times in a row") == 1


def test_failures_with_replies_between_them_do_not_stop_the_sending():
    with chat_server(lambda _, number: "RIGHT" if number % 10 == 0 else (502, "{}")) as server:
        ask(endpoint(server.base_url, concurrency=1, retries=0), numbered(60))
        assert len(server.requests) == 60


def test_the_key_is_in_no_reply_error_or_setting():
    def echo(prompt, _):
        return f"RIGHT {KEY}" if prompt == "prompt 0" else (400, json.dumps({"error": {"message": f"bad {KEY}"}}))

    with chat_server(echo) as server:
        address = server.base_url.replace("http://", f"http://user:{KEY}@") + f"?key={KEY}"
        secretive = endpoint(address, api_key=KEY, concurrency=1)
        assert KEY not in repr((secretive.settings, secretive.name, secretive.shown_url))
        assert secretive.shown_url == server.base_url
    with chat_server(echo) as server:
        replies = ask(endpoint(server.base_url, api_key=KEY, concurrency=1), numbered(2))
    assert replies[0].text == "RIGHT [key]"
    assert replies[1].error == "status 400: bad [key]"
    with pytest.raises(UserError) as error:
        endpoint(f"ftp://user:{KEY}@host/?key={KEY}", api_key=KEY)
    assert KEY not in str(error.value)


@pytest.mark.parametrize("base_url", ["localhost:8000/v1", "http://", "/v1"])
def test_an_address_must_be_whole(base_url):
    with pytest.raises(
        UserError, match=r"the base URL .* is no whole address: give one such as http://localhost:8000/v1"
    ):
        endpoint(base_url)


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"an endpoint needs the package openai: pip install medcap\[judge\]"):
        endpoint("http://localhost:8000/v1")


def test_prompts_that_are_left_do_not_keep_the_program(monkeypatch):
    interrupted = threading.Event()

    def respond(_, number):
        if number:
            interrupted.wait(PATIENCE)
        time.sleep(0.02)
        return "RIGHT"

    with chat_server(respond) as server:

        def interrupt(position, reply):
            interrupted.set()
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            endpoint(server.base_url, concurrency=2).ask(numbered(1000), interrupt)
        time.sleep(0.1)
        assert len(server.requests) < 100


def test_a_conversation_is_sent_with_its_turns_and_its_tokens_are_counted():
    prompt = Prompt((Turn("system", "Be brief."), Turn("user", "Hi"), Turn("assistant", "Hi."), Turn("user", "q")), "7")
    with chat_server(lambda *_: "words") as server:
        (reply,) = ask(endpoint(server.base_url), [prompt])
    assert [tuple(message.values()) for message in server.requests[0]["messages"]] == [
        ("system", "Be brief."),
        ("user", "Hi"),
        ("assistant", "Hi."),
        ("user", "q"),
    ]
    assert (reply.num_prompt_tokens, reply.num_tokens) == (1, 2)


def test_what_is_not_admitted_is_not_sent():
    replies = {}
    with chat_server(lambda *_: "words") as server:
        model = endpoint(server.base_url, concurrency=1)
        model.ask(
            numbered(4), lambda position, reply: replies.update({position: reply}), lambda p: "" if p < 2 else "full"
        )
        assert server.prompts == ["prompt 0", "prompt 1"]
    assert [(replies[number].finish, replies[number].error) for number in range(4)] == [
        ("stop", ""),
        ("stop", ""),
        (NOT_SENT, "full"),
        (NOT_SENT, "full"),
    ]


@pytest.mark.parametrize(
    "usage", ["none", {}, {"prompt_tokens": -5, "completion_tokens": -7}, {"prompt_tokens": 10**30}]
)
def test_a_reply_with_numbers_of_tokens_that_are_none_is_kept(usage):
    body = json.dumps(json.loads(completion("RIGHT")) | {"usage": usage})
    with chat_server(lambda prompt, _: (200, body)) as server:
        (reply,) = ask(endpoint(server.base_url, retries=0), numbered(1))
    assert (reply.text, reply.num_tokens, reply.num_prompt_tokens, reply.error) == ("RIGHT", 0, 0, "")


def test_half_a_character_of_a_prompt_is_sent_as_a_question_mark():
    with chat_server(lambda prompt, _: "RIGHT") as server:
        (reply,) = ask(endpoint(server.base_url), ["a \ud800 cyst"])
    assert reply.text == "RIGHT"
    assert server.requests[0]["messages"][0]["content"] == "a ? cyst"
