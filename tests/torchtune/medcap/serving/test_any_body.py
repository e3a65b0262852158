"""Whatever JSON comes, the reply is an answer or a refusal in one line; it is never a failure of the server."""

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from helpers.serving import LEAK, image_part, instant_service, noise_png
from medcap.serving.api.chat_body import ChatBody, ChatMessage, ImageUrl, Part, StreamOptions
from medcap.serving.api.idle_fields import OF_MESSAGE, OF_PART, OF_REQUEST
from medcap.serving.app import create_app
from medcap.serving.routes import Keys
from medcap.serving.web.votes import VoteLog
from medcap.serving.web.web_page import BoxedText, Vote, page_routes

OURS = re.compile(
    "ChatBody|ChatMessage|ImageUrl|StreamOptions|BoxedText|VotedImage|instance of|pydantic|validation error"
)
IMAGE = image_part(noise_png(0))
CHATS = [
    {"model": "tiny", "messages": [{"role": "user", "content": "Is there a mass?"}]},
    {
        "model": "tiny",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [IMAGE, {"type": "text", "text": "Is there a mass?"}]},
            {"role": "assistant", "content": "No.", "refusal": None, "tool_calls": None},
            {"role": "user", "content": "Sure?", "name": "anna"},
        ],
        "stop": ["\n"],
        "temperature": 0.5,
        "top_p": 0.9,
        "seed": 3,
        "max_tokens": 4,
        "stream_options": {"include_usage": True},
    },
]
VOTE = {
    "vote": "best",
    "model": "tiny",
    "question": "What is it?",
    "images": [{"name": "a.png", "sha256": "0" * 64}],
    "turn": 1,
    "answers": {"tiny": "a lung"},
    "settings": {"temperature": 0},
}
BOXED = {"model": "tiny", "text": "<box>(100,200),(300,400)</box> {<10><20><30><40>}", "width": 100, "height": 100}

MODELS = (ChatBody, ChatMessage, Part, ImageUrl, StreamOptions, Vote, BoxedText)
NAMES = sorted({*OF_REQUEST, *OF_MESSAGE, *OF_PART, *(name for model in MODELS for name in model.model_fields)})
ROLES_AND_TYPES = ["user", "assistant", "system", "text", "image_url", "none", "auto", "up", "tiny"]
URLS = ["data:image/png;base64,AAAA", "data:,", "http://127.0.0.1/"]
ODD = ["", " ", "\n", "\0", "<image>", "\u2460", "\ufdd0", "\ud800", "9" * 400]
WORDS = st.sampled_from([*ROLES_AND_TYPES, *URLS, *ODD])
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-2, 2),
    st.floats(),
    WORDS,
    st.text(max_size=8),
)
ANY = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


TEXTS = WORDS | st.sampled_from(["Is there a mass?", "<image> Is it left?", "Is \u2460 left of \u2460?", "Yes <image>"])
PARTS = st.one_of(
    st.just(IMAGE),
    st.builds(lambda url: {"type": "image_url", "image_url": url}, WORDS),
    st.builds(lambda text: {"type": "text", "text": text, "cache_control": {}}, TEXTS),
    st.builds(lambda text: {"type": "refusal", "refusal": text}, TEXTS),
)
TURNS = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "user", "assistant", "system"]),
        "content": st.one_of(TEXTS, TEXTS, st.lists(PARTS, max_size=3), st.none()),
    },
    optional={"name": TEXTS, "tool_calls": st.sampled_from([None, []])},
)
CONVERSATIONS = st.fixed_dictionaries(
    {"model": st.just("tiny"), "messages": st.lists(TURNS, min_size=1, max_size=4)},
    optional={
        "stop": st.none() | TEXTS | st.lists(TEXTS, max_size=2),
        "temperature": st.none() | st.floats(0, 2),
        "top_p": st.none() | st.floats(0, 1),
        "top_k": st.none() | st.integers(-1, 3),
        "seed": st.none() | st.integers(-(2**63), 2**63 - 1),
        "max_tokens": st.none() | st.integers(1, 2**70),
        "stream": st.none() | st.booleans(),
        "n": st.just(1),
    },
)


def positions_of(value, position=()):
    """The paths of all values within a value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [position, *(deeper for key, inner in items for deeper in positions_of(inner, (*position, key)))]


@st.composite
def changed(draw, bodies):
    """A body with up to three values replaced, added or taken away anywhere."""
    body = json.loads(json.dumps(draw(st.sampled_from(bodies))))
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.sampled_from(positions_of(body)))
        holder = body
        for key in position[:-1]:
            holder = holder[key]
        target = holder[position[-1]] if position else body
        if isinstance(target, dict) and draw(st.booleans()):
            target[draw(st.sampled_from(NAMES) | st.text(max_size=5))] = draw(ANY)
        elif isinstance(target, list) and draw(st.booleans()):
            target.insert(0, draw(ANY))
        elif not position:
            body = draw(ANY)
        elif draw(st.integers(0, 3)):
            holder[position[-1]] = draw(ANY)
        else:
            del holder[position[-1]]
    return body


@pytest.fixture(scope="module")
def app(folder):
    """Everything but a model that computes."""
    service = instant_service(folder, max_seq_len=2048)
    routes = page_routes(service, Keys([]), VoteLog(folder / "votes.jsonl"))
    with TestClient(create_app(service, routes=routes), raise_server_exceptions=False) as client:
        yield client


def check(app, path, body):
    reply = app.post(path, content=json.dumps(body), headers={"content-type": "application/json"})
    assert LEAK.search(reply.content) is None and OURS.search(reply.text) is None, reply.text
    if reply.status_code in (200, 204):
        assert "server_error" not in reply.text
        return
    assert 400 <= reply.status_code < 500, reply.text
    assert set(reply.json()) == {"error"}
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["code"]
    assert error["type"] == "invalid_request_error" and isinstance(error["param"], str | None)
    assert error["message"].isprintable() and 0 < len(error["message"]) < 600


def fuzz(max_examples):
    return settings(max_examples=max_examples, deadline=None, derandomize=True)


@pytest.mark.slow
@fuzz(70)
@given(body=changed(CHATS))
def test_any_chat_request(app, body):
    check(app, "/v1/chat/completions", body)


@pytest.mark.slow
@fuzz(100)
@given(body=CONVERSATIONS)
def test_any_conversation(app, body):
    check(app, "/v1/chat/completions", body)


@pytest.mark.slow
@fuzz(40)
@given(body=changed([VOTE]))
def test_any_vote(app, body):
    check(app, "/page/votes", body)


@pytest.mark.slow
@fuzz(40)
@given(body=changed([BOXED]))
def test_any_text_with_boxes(app, body):
    check(app, "/page/regions", body)


def test_what_is_not_changed_is_answered(app, folder):
    for path, bodies in (("/v1/chat/completions", CHATS), ("/page/regions", [BOXED]), ("/page/votes", [VOTE])):
        for body in bodies:
            assert app.post(path, json=body).status_code in (200, 204)
    for line in (folder / "votes.jsonl").read_text(encoding="utf-8").splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"a vote holds {name}"))
