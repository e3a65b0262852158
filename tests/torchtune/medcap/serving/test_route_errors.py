"""What clients are told when something cannot be answered, and what the server tells of itself."""

import openai
import pytest

from helpers.serving import asking, noise_png, running, tiny_service
from medcap.generation.decoding.decoder import Decoder

WORDS = "What shows the left lung?"
ALL = 32  # most tokens of an answer


@pytest.mark.parametrize(
    ("changes", "kind", "status", "code", "param"),
    [
        ({"model": "gpt-4o"}, openai.NotFoundError, 404, "model_not_found", "model"),
        ({"temperature": 3}, openai.BadRequestError, 400, "invalid_value", "temperature"),
        ({"n": 2}, openai.BadRequestError, 400, "unsupported_value", "n"),
        ({"messages": []}, openai.BadRequestError, 400, "invalid_value", "messages"),
        (
            {"messages": [{"role": "user", "content": "Yes? " * 400}]},
            openai.BadRequestError,
            400,
            "context_length_exceeded",
            "messages",
        ),
        (
            {"messages": [{"role": "user", "content": "x" * 10**6}]},
            openai.BadRequestError,
            400,
            "context_length_exceeded",
            "messages",
        ),
    ],
)
def test_errors_reach_the_client_as_its_own_exceptions(client, changes, kind, status, code, param):
    with pytest.raises(kind) as raised:
        client.openai().chat.completions.create(**{**asking(WORDS), **changes})
    error = raised.value
    assert (error.status_code, error.code, error.param) == (status, code, param)
    assert error.response.headers["x-should-retry"] == "false"
    assert error.request_id.startswith("req-")


def test_only_who_has_the_key_is_answered(tmp_path, caplog):
    keys = ["correct horse", "battery-staple"]
    with running(tiny_service(tmp_path), keys) as client, caplog.at_level("INFO"):
        for key in keys:
            assert client.openai(api_key=key).models.list().data[0].id == "tiny"
        with pytest.raises(openai.AuthenticationError) as raised:
            client.openai(api_key="wrong").chat.completions.create(**asking(WORDS))
        assert raised.value.code == "invalid_api_key"
        for value in (
            "",
            "Bearer",
            "Bearer correct horsE",
            "Bearer correct horse battery-staple",
            "Bearer \xe9",
            f"Basic {keys[0]}",
        ):
            assert client.request("GET", "/v1/models", headers={"Authorization": value}).status == 401
        client.headers = {}
        paths = [
            ("GET", "/v1/models"),
            ("GET", "/v1/models/tiny"),
            ("GET", "/metrics"),
            ("POST", "/v1/chat/completions"),
        ]
        for method, path in paths:
            reply = client.request(method, path, asking(WORDS) if method == "POST" else None)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
        assert client.request("GET", "/health").status == 200
    assert not any(key in caplog.text for key in keys)


def test_health_turns_when_the_model_fails_again_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(Decoder, "step", lambda *_, **__: 1 / 0)
    with running(tiny_service(tmp_path)) as client:
        assert client.request("GET", "/health").json == {"status": "ok"}
        for _ in range(3):
            reply = client.chat(asking(WORDS))
            assert (reply.status, reply.error["type"]) == (500, "server_error")
            assert reply.headers["x-request-id"] in reply.error["message"]
            assert "division" not in reply.body.decode()
        assert client.request("GET", "/health").status == 503


@pytest.mark.slow
def test_a_failure_in_the_middle_of_a_stream_raises_in_the_client(tmp_path, monkeypatch):
    step, steps = Decoder.step, []

    def failing(self, *arguments, **options):
        steps.append(1)
        return step(self, *arguments, **options) if len(steps) < 5 else 1 / 0

    with running(tiny_service(tmp_path)) as client:
        monkeypatch.setattr(Decoder, "step", failing)
        with pytest.raises(openai.APIError, match="its log has the reason under req-"):
            list(client.openai().chat.completions.create(**asking(WORDS, stream=True)))
        monkeypatch.setattr(Decoder, "step", step)
        assert client.openai().chat.completions.create(**asking(WORDS)).choices[0].message.content


def test_metrics_count_what_was_done(tmp_path):
    with running(tiny_service(tmp_path)) as client:
        completion = client.openai().chat.completions.create(**asking(WORDS, noise_png(1)))
        client.chat(b"{")
        assert client.metric("medcap_prompt_tokens_total") == completion.usage.prompt_tokens
        assert client.metric("medcap_generated_tokens_total") == ALL
        assert client.metric("medcap_images_total") == 1
        assert client.metric("medcap_first_token_seconds_count") == client.metric("medcap_answer_seconds_count") == 1
        assert client.metric("medcap_requests_waiting") == client.metric("medcap_requests_running") == 0
        text = client.request("GET", "/metrics").body.decode()
        assert 'medcap_requests_total{route="/v1/chat/completions",status="200"} 1.0' in text
        assert 'medcap_requests_total{route="/v1/chat/completions",status="400"} 1.0' in text


def test_unknown_paths_and_methods_have_errors_of_the_same_form(client):
    for method, path, status in (
        ("GET", "/", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/v1/models/../../secret", 404),
        ("GET", "/health/", 404),
        ("GET", "/v1/chat/completions", 405),
        ("DELETE", "/v1/models", 405),
    ):
        reply = client.request(method, path)
        assert (reply.status, set(reply.error)) == (status, {"message", "type", "param", "code"}), path
    assert client.request("GET", "/v1/chat/completions").headers["allow"] == "POST"


def test_messages_that_the_chat_template_cannot_take_are_named(client, service, monkeypatch):
    def refuse(messages):
        raise ValueError("System role is not supported\nsecond line")

    own = service.runs["tiny"].generator.tokenizer.tokenizer
    monkeypatch.setattr(own, "tokenize_messages", refuse)
    reply = client.chat(asking("Is there a circle?"))
    assert (reply.status, reply.error["param"]) == (400, "messages")
    assert reply.error["message"] == "the model's chat template cannot take these turns or their words"
