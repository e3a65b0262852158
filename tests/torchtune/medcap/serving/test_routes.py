import asyncio
import io
import json
import time

import openai
import pytest
from PIL import Image
from torchtune.data import Message

from helpers.serving import asking, image_part, noise_png, running, tiny_service
from helpers.tiny_generation import tiny_generator
from helpers.waiting import PATIENCE
from medcap.generation.decoding.decoder import Decoder
from medcap.generation.prompt import user_message
from medcap.generation.request import Request, Sampling
from medcap.serving.answer import REQUEST_KEY
from medcap.serving.limits import Limits
from medcap.serving.service import Service

WORDS = "What shows the left lung?"
ALL = 32  # most tokens of an answer


@pytest.fixture(scope="module")
def alone(folder):
    """The same model, used without a server."""
    generator = tiny_generator(folder)

    def answer(messages, **sampling):
        rules = Sampling(**{"max_new_tokens": ALL, **sampling})
        return generator.generate([Request(messages, REQUEST_KEY)], rules)[0]

    return answer


def picture(data):
    return Image.open(io.BytesIO(data))


def text_of(completion):
    return completion.choices[0].message.content


@pytest.mark.slow
def test_text_is_answered_as_without_a_server(client, alone):
    began = int(time.time())
    completion = client.openai().chat.completions.create(**asking(WORDS))
    expected = alone([user_message(None, WORDS)])
    assert text_of(completion) == expected.text != ""
    assert completion.choices[0].finish_reason == expected.finish == "length"
    assert completion.choices[0].message.role == "assistant"
    assert (completion.object, completion.model) == ("chat.completion", "tiny")
    usage = completion.usage
    assert usage.completion_tokens == len(expected.tokens) == ALL
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert began <= completion.created <= time.time() and completion.id.startswith("chatcmpl-")


@pytest.mark.slow
def test_an_image_is_seen_as_without_a_server(client, alone):
    answers = []
    for seed in range(3):
        data = noise_png(seed)
        completion = client.openai().chat.completions.create(**asking(WORDS, data))
        assert text_of(completion) == alone([user_message(picture(data), WORDS)]).text
        answers.append(text_of(completion))
    assert len(set(answers)) == 3


@pytest.mark.slow
def test_an_image_alone_asks_for_a_caption(client, alone):
    data = noise_png(4)
    assert (
        text_of(client.openai().chat.completions.create(**asking("", data)))
        == alone([user_message(picture(data))]).text
    )


def test_a_conversation_of_several_turns_and_images(client, alone):
    first, second = noise_png(5), noise_png(6)
    turns = [
        {"role": "system", "content": "the chest"},
        {"role": "user", "content": [image_part(first), {"type": "text", "text": WORDS}]},
        {"role": "assistant", "content": "No, left"},
        {"role": "user", "content": [image_part(second), {"type": "text", "text": "Is the square red?"}]},
    ]
    completion = client.openai().chat.completions.create(model="tiny", messages=turns)
    expected = alone(
        [
            Message(role="system", content="the chest", masked=True),
            user_message(picture(first), WORDS),
            Message(role="assistant", content="No, left"),
            user_message(picture(second), "Is the square red?"),
        ]
    )
    assert text_of(completion) == expected.text


def test_an_answer_of_the_client_library_can_be_sent_back_as_it_is(client):
    api = client.openai()
    first = api.chat.completions.create(**asking(WORDS))
    said = first.choices[0].message.model_dump()
    turns = [{"role": "user", "content": WORDS}, said, {"role": "user", "content": "Is there a circle?"}]
    assert text_of(api.chat.completions.create(model="tiny", messages=turns))


def test_an_empty_answer_can_be_sent_back_as_it_is(client, alone):
    api = client.openai()
    full = text_of(api.chat.completions.create(**asking(WORDS)))
    empty = api.chat.completions.create(**asking(WORDS, stop=full[:1])).choices[0].message
    assert empty.content == ""
    turns = [{"role": "user", "content": WORDS}]
    turns += [empty, {"role": "user", "content": "Is there a circle?"}]
    expected = alone(
        [
            user_message(None, WORDS),
            Message(role="assistant", content=""),
            user_message(None, "Is there a circle?"),
        ]
    )
    assert text_of(api.chat.completions.create(model="tiny", messages=turns)) == expected.text


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prefix", ["Yes, the", "Yes, the ", "Yes, the le", ""])
def test_an_answer_continues_from_the_assistants_last_words(client, folder, prefix, stream):
    generator = tiny_generator(folder)
    request = Request([user_message(None, WORDS)], REQUEST_KEY, answer_prefix=prefix)
    tokens = generator.generate([request], Sampling(ALL))[0].tokens
    before = generator.tokenizer.answer(prefix, end_of_turn=False)
    expected = generator.tokenizer.decode([*before, *tokens]).removeprefix(prefix.strip())
    turns = [{"role": "user", "content": WORDS}, {"role": "assistant", "content": prefix}]
    reply = client.openai().chat.completions.create(model="tiny", messages=turns, stream=stream)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in reply) if stream else text_of(reply)
    # The client puts its own words before it.
    assert said == (expected.lstrip() if prefix.endswith(" ") else expected) != ""


def test_a_system_text_alone_is_answered(client, alone):
    turns = [{"role": "system", "content": "the chest"}]
    expected = alone([Message(role="system", content="the chest", masked=True)])
    assert text_of(client.openai().chat.completions.create(model="tiny", messages=turns)) == expected.text


def test_the_smallest_top_p_leaves_the_likeliest_words(client, alone):
    body = asking(WORDS, temperature=1.5, top_p=0)
    assert text_of(client.openai().chat.completions.create(**body)) == alone([user_message(None, WORDS)]).text


def test_a_component_that_the_model_cannot_leave_out_is_refused(client):
    reply = client.chat(asking(WORDS, without=["llm_lora"]))
    assert reply.status == 400
    error = reply.json["error"]
    assert error["param"] == "without" and error["message"].endswith("there are: none")
    assert client.chat(asking(WORDS, without=[], max_tokens=2)).status == 200


@pytest.mark.slow
def test_top_k_of_other_engines_asks_for_all_tokens(client):
    api = client.openai()
    answers = {
        text_of(api.chat.completions.create(**asking(WORDS, temperature=1.5, seed=5, extra_body=fields)))
        for fields in ({}, {"top_k": -1}, {"top_k": 0}, {"min_p": 0, "repetition_penalty": 1.0})
    }
    assert len(answers) == 1


@pytest.mark.parametrize("max_seq_len", [2048, 256, 100])
def test_the_context_that_is_reported_is_the_lower_of_the_models_and_the_servers(tmp_path, max_seq_len):
    lower = min(max_seq_len, 256)  # the tiny decoder's own
    service = Service({"tiny": tiny_generator(tmp_path, max_seq_len=max_seq_len)}, Limits(max_seq_len=max_seq_len))
    with running(service) as client:
        listed = client.request("GET", "/v1/models").json["data"][0]
        assert listed["max_model_len"] == client.request("GET", "/v1/models/tiny").json["max_model_len"] == lower
        for words in ("Yes? " * 300, "x" * 10**6):
            error = client.chat(asking(words)).error
            assert error["code"] == "context_length_exceeded"
            assert f"with its answer it may have {lower} tokens" in error["message"]


def test_words_that_the_chat_template_cannot_take_are_not_called_too_long(tmp_path, monkeypatch):
    service = tiny_service(tmp_path)
    tokenizer = service.runs["tiny"].generator.tokenizer.tokenizer

    def refuse(messages, **_):
        raise ValueError("system turns are not supported at 0x7f00dead")

    with running(service) as client:
        monkeypatch.setattr(tokenizer, "tokenize_messages", refuse)
        reply = client.chat(asking(WORDS))
        assert (reply.status, reply.error["code"]) == (400, "invalid_value")
        assert "the model's chat template cannot take these turns" in reply.error["message"]


@pytest.mark.slow
def test_a_stream_is_the_same_answer_in_pieces(client):
    body = asking(WORDS, noise_png(7))
    whole = client.openai().chat.completions.create(**body)
    options = {"include_usage": True}
    chunks = list(client.openai().chat.completions.create(**body, stream=True, stream_options=options))
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(pieces) == text_of(whole) and len([piece for piece in pieces if piece]) > 5
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[-3:-1]] == [None, "length"]
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_on_the_wire_ends_with_done_and_has_usage_only_if_asked(client):
    reply = client.chat(asking(WORDS, max_tokens=3, stream=True))
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = reply.body.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all("usage" not in json.loads(event.removeprefix("data: ")) for event in events[:-2])


@pytest.mark.slow
def test_the_answer_ends_before_a_stop_text_streamed_or_not(client, alone):
    full = alone([user_message(None, WORDS)]).text
    stop = full[len(full) // 2 :][:4]
    expected = full[: full.index(stop)].rstrip()
    for given in (stop, [stop, "nowhere to be found"]):
        completion = client.openai().chat.completions.create(**asking(WORDS, stop=given))
        assert (text_of(completion), completion.choices[0].finish_reason) == (expected, "stop")
        assert 0 < completion.usage.completion_tokens < ALL
    chunks = list(client.openai().chat.completions.create(**asking(WORDS, stop=stop, stream=True)))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == expected
    assert chunks[-1].choices[0].finish_reason == "stop"


def test_tokens_are_bounded_by_the_request_and_by_the_server(client):
    api = client.openai()
    for fields, count in (
        ({"max_tokens": 3}, 3),
        ({"max_completion_tokens": 2, "max_tokens": 9}, 2),
        ({"max_tokens": 10**6}, ALL),
    ):
        completion = api.chat.completions.create(**asking(WORDS, **fields))
        assert (completion.usage.completion_tokens, completion.choices[0].finish_reason) == (count, "length")


@pytest.mark.slow
def test_sampling_repeats_with_a_seed_and_varies_without(client, alone):
    def answer(**fields):
        return text_of(client.openai().chat.completions.create(**asking(WORDS, temperature=1.5, **fields)))

    assert answer(seed=5) == answer(seed=5) == alone([user_message(None, WORDS)], temperature=1.5, seed=5).text
    assert answer(seed=-3) != answer(seed=5)
    assert len({answer() for _ in range(3)}) > 1
    few = answer(seed=1, extra_body={"top_k": 1}, top_p=0.9)
    assert few == alone([user_message(None, WORDS)]).text


def test_without_a_temperature_the_likeliest_words_come(client):
    api = client.openai()
    assert text_of(api.chat.completions.create(**asking(WORDS))) == text_of(
        api.chat.completions.create(**asking(WORDS, temperature=0, seed=9))
    )


@pytest.mark.slow
def test_32_clients_at_once_get_what_each_gets_alone_in_one_batch(client, alone, monkeypatch):
    together = []
    step = Decoder.step
    monkeypatch.setattr(Decoder, "step", lambda self, *a, **k: (together.append(self.num_open), step(self, *a, **k))[1])
    images = [noise_png(100 + number) for number in range(32)]
    words = [WORDS + " Is there a circle?" * (number % 3) for number in range(32)]

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=client.base_url, api_key="none", max_retries=0, timeout=PATIENCE) as api:
            bodies = [asking(text, image) for text, image in zip(words, images, strict=True)]
            return await asyncio.gather(*(api.chat.completions.create(**body) for body in bodies))

    answers = [text_of(completion) for completion in asyncio.run(ask_all())]
    expected = [alone([user_message(picture(i), text)]).text for i, text in zip(images, words, strict=True)]
    assert answers == expected
    assert len(set(answers)) > 16
    assert max(together) > 8


@pytest.mark.slow
def test_several_runs_over_one_language_model_are_served_in_one_batch(tmp_path):
    service = tiny_service(tmp_path, "first", "second")
    with running(service) as client:
        api = client.openai()
        listed = api.models.list().data
        assert [model.id for model in listed] == ["first", "second"]
        assert api.models.retrieve("second").owned_by == "medcap"
        answers = [text_of(api.chat.completions.create(**{**asking(WORDS), "model": model.id})) for model in listed]
        assert answers[0] == answers[1] != ""
        assert len({id(run.live) for run in service.runs.values()}) == 1
