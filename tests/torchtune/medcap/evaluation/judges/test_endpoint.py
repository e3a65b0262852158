import json
import time

import pytest

from helpers.chat_server import chat_server, nobody_there
from medcap.errors import UserError
from medcap.evaluation.judges import endpoint
from medcap.evaluation.judges.endpoint import EndpointJudge

pytest.importorskip("openai")

KEY = "sk-a-very-secret-key"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def judge(base_url, **options):
    options = {"retries": 2, "backoff": 0.01, "timeout": 5.0, "progress": False, **options}
    return EndpointJudge("judge-model", base_url, **options)


def ask(judge, prompts):
    replies = {}
    judge.ask(prompts, lambda place, reply: replies.update({place: reply}))
    assert sorted(replies) == list(range(len(prompts)))
    return [replies[place] for place in range(len(prompts))]


def numbered(count):
    return [f"prompt {place}" for place in range(count)]


def test_a_request_is_greedy_and_a_reply_keeps_its_place():
    with chat_server(lambda prompt, _: f" RIGHT {prompt} ") as server:
        replies = ask(judge(server.base_url, api_key=KEY, max_new_tokens=7), numbered(20))
    assert [reply.text for reply in replies] == [f"RIGHT prompt {place}" for place in range(20)]
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
    def slow(prompt, _):
        time.sleep(0.05)
        return "RIGHT"

    with chat_server(slow) as server:
        ask(judge(server.base_url, concurrency=4), numbered(12))
        assert server.most_at_once == 4
        server.most_at_once = 0
        ask(judge(server.base_url, concurrency=1), numbered(3))
        assert server.most_at_once == 1


def test_key_and_address_come_from_the_environment(monkeypatch):
    with chat_server(lambda *_: "WRONG") as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        monkeypatch.setenv("MY_KEY", KEY)
        assert ask(judge(None, api_key_env="MY_KEY"), ["q"])[0].text == "WRONG"
        assert server.keys == [f"Bearer {KEY}"]


def test_without_a_key_a_server_of_ones_own_is_asked_and_openai_is_not():
    with chat_server(lambda *_: "WRONG") as server:
        ask(judge(server.base_url), ["q"])
        assert server.keys == ["Bearer none"]
    with pytest.raises(UserError, match=r"there is no key for https://api\.openai\.com/v1: .* OPENAI_API_KEY"):
        judge(None)


def test_what_may_pass_is_tried_again():
    answers = [(500, "{}"), (429, '{"error": {"message": "slow down"}}'), "RIGHT"]
    with chat_server(lambda _, number: answers[number]) as server:
        (reply,) = ask(judge(server.base_url), ["q"])
    assert reply.text == "RIGHT"
    assert len(server.requests) == 3


def test_tries_end_and_the_prompt_fails():
    def respond(prompt, _):
        return (503, '{"error": {"message": "busy"}}') if prompt == "prompt 1" else "RIGHT"

    with chat_server(respond) as server:
        replies = ask(judge(server.base_url, concurrency=1), numbered(3))
    assert [reply.text for reply in replies] == ["RIGHT", "", "RIGHT"]
    assert replies[1].error == "status 503: busy (3 tries)"
    assert server.prompts == ["prompt 0", *["prompt 1"] * 3, "prompt 2"]


def test_waits_double():
    waits = []
    with chat_server(lambda *_: (500, "{}")) as server:
        slow = judge(server.base_url, retries=3, backoff=1.0)
        run = endpoint._Run(slow, ["q"])
        run._stop.wait = waits.append
        assert run._ask(0, "q").endpoint_failed
    assert waits == [1.0, 2.0, 4.0]


def test_a_slow_server_is_a_timeout_of_that_prompt_only():
    def respond(prompt, _):
        time.sleep(0.5 if prompt == "prompt 1" else 0)
        return "RIGHT"

    with chat_server(respond) as server:
        replies = ask(judge(server.base_url, concurrency=1, timeout=0.1, retries=1), numbered(3))
    assert [reply.error for reply in replies] == ["", "no answer within timeout=0.1 s (2 tries)", ""]


def test_a_request_that_the_server_refuses_is_not_tried_again():
    def respond(prompt, _):
        return (400, '{"error": {"message": "too\\nlong"}}') if prompt == "prompt 0" else "RIGHT"

    with chat_server(respond) as server:
        replies = ask(judge(server.base_url, concurrency=1), numbered(2))
    assert replies[0].error == "status 400: too long"
    assert replies[1].text == "RIGHT"
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "body", ["<html>login</html>", '"RIGHT"', "{}", '{"choices": []}', '{"choices": null}', '{"choices": [{}]}']
)
def test_what_is_no_completion_is_a_failure(body):
    with chat_server(lambda prompt, _: (200, body) if prompt == "prompt 1" else "RIGHT") as server:
        replies = ask(judge(server.base_url, concurrency=1, retries=0), numbered(2))
    assert replies[1].error == "what came back is no chat completion"


def test_an_empty_completion_is_an_empty_reply():
    body = {"choices": [{"message": {"role": "assistant", "content": None}, "finish_reason": "length"}], "usage": None}
    with chat_server(lambda *_: (200, json.dumps(body))) as server:
        (reply,) = ask(judge(server.base_url), ["q"])
    assert (reply.text, reply.finish, reply.num_tokens, reply.error) == ("", "length", 0, "")


def test_an_endpoint_that_is_down_ends_the_run_after_a_few_prompts():
    replies = []
    down = nobody_there()
    with pytest.raises(UserError) as error:
        judge(down, concurrency=2).ask(numbered(1000), lambda place, reply: replies.append(reply))
    message = str(error.value)
    assert "\n" not in message
    assert f"the endpoint {down} does not reply (no connection" in message
    assert "base_url" in message
    assert "verdicts so far are kept" in message
    assert len(replies) == 3


@pytest.mark.parametrize(("status", "path"), [(401, ""), (404, "/nowhere")])
def test_a_wrong_key_or_path_ends_the_run_without_further_tries(status, path):
    with chat_server(lambda *_: (401, '{"error": {"message": "bad key"}}')) as server:
        with pytest.raises(UserError, match=f"does not reply .status {status}.*the key in OPENAI_API_KEY"):
            ask(judge(server.base_url + path, concurrency=1), numbered(100))
        assert len(server.requests) <= 4


def test_an_endpoint_that_goes_away_fails_the_rest_and_stops_sending(capsys):
    def respond(_, number):
        return "RIGHT" if number < 5 else (502, "{}")

    with chat_server(respond) as server:
        replies = ask(judge(server.base_url, concurrency=1, retries=0), numbered(60))
        assert len(server.requests) == pytest.approx(25, abs=1)
    assert [reply.text for reply in replies] == ["RIGHT"] * 5 + [""] * 55
    assert all(reply.error for reply in replies[5:])
    assert replies[-1].error.startswith("not sent, the endpoint had failed 20 times in a row: status 502")
    assert capsys.readouterr().err.count("note: the endpoint failed 20 times in a row") == 1


def test_failures_with_replies_between_them_do_not_stop_the_sending():
    with chat_server(lambda _, number: "RIGHT" if number % 10 == 0 else (502, "{}")) as server:
        ask(judge(server.base_url, concurrency=1, retries=0), numbered(60))
        assert len(server.requests) == 60


def test_the_key_is_in_no_reply_error_or_setting():
    def echo(prompt, _):
        return f"RIGHT {KEY}" if prompt == "prompt 0" else (400, json.dumps({"error": {"message": f"bad {KEY}"}}))

    with chat_server(echo) as server:
        address = server.base_url.replace("http://", f"http://user:{KEY}@") + f"?key={KEY}"
        secretive = judge(address, api_key=KEY, concurrency=1)
        assert KEY not in repr((secretive.settings, secretive.name, secretive.shown_url))
        assert secretive.shown_url == server.base_url
    with chat_server(echo) as server:
        replies = ask(judge(server.base_url, api_key=KEY, concurrency=1), numbered(2))
    assert replies[0].text == "RIGHT [key]"
    assert replies[1].error == "status 400: bad [key]"
    with pytest.raises(UserError) as error:
        judge(f"ftp://user:{KEY}@host/?key={KEY}", api_key=KEY)
    assert KEY not in str(error.value)


@pytest.mark.parametrize("base_url", ["localhost:8000/v1", "http://", "/v1"])
def test_an_address_must_be_whole(base_url):
    with pytest.raises(UserError, match=r"base_url=.*such as http://localhost:8000/v1"):
        judge(base_url)


def test_without_the_package_the_remedy_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"judge=endpoint needs the package openai: pip install medcap\[judge\]"):
        judge("http://localhost:8000/v1")


def test_prompts_that_are_left_do_not_keep_the_program(monkeypatch):
    def respond(_, number):
        time.sleep(0.02)
        return "RIGHT"

    with chat_server(respond) as server:

        def interrupt(place, reply):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            judge(server.base_url, concurrency=2).ask(numbered(1000), interrupt)
        time.sleep(0.1)
        assert len(server.requests) < 10
