import openai
import pytest
import torch

from helpers.serving import asking, running, slow_down, tiny_service
from helpers.waiting import wait_for
from medcap.generation.decoding.decoder import Decoder

WORDS = "Is there a circle?"


@pytest.fixture
def slow(folder, monkeypatch):
    """A server whose one row takes 20 s and 199 steps for a full answer, its service, and an item for each step."""
    steps = slow_down(monkeypatch, 0.1)
    service = tiny_service(folder, max_rows=1, max_new_tokens=200)
    with running(service) as client:
        yield client, service, steps


def num_running(service):
    return service.runs["tiny"].live.num_running


def test_a_client_that_leaves_frees_its_row(slow):
    client, service, steps = slow
    for stream in (False, True):
        connection = client.begin_chat(asking(WORDS, stream=stream))
        wait_for(lambda: num_running(service) == 1)
        connection.close()
        wait_for(lambda: num_running(service) == 0 and service.num_admitted == 0)
    assert len(steps) < 199
    assert client.metric('medcap_requests_total{route="/v1/chat/completions",status="499"}') == 2


def test_a_client_that_leaves_while_it_waits_is_never_computed(slow):
    client, service, steps = slow
    live = service.runs["tiny"].live
    first = client.begin_chat(asking(WORDS, stream=True))
    wait_for(lambda: live.num_running == 1)
    waiting = client.begin_chat(asking(WORDS))
    wait_for(lambda: live.num_waiting == 1)
    waiting.close()
    wait_for(lambda: live.num_waiting == 0 and service.num_admitted == 1)
    assert live.num_running == 1 and len(steps) < 199
    first.close()


@pytest.mark.slow
def test_a_stop_text_frees_the_row_at_once(slow):
    client, service, steps = slow
    full = client.chat(asking(WORDS, max_tokens=6)).json["choices"][0]["message"]["content"]
    reply = client.chat(asking(WORDS, stop=full[len(full) // 2 :][:3])).json
    assert reply["choices"][0]["finish_reason"] == "stop"
    wait_for(lambda: num_running(service) == 0)
    assert len(steps) < 199


@pytest.mark.slow
def test_an_answer_that_takes_too_long_is_given_up(folder, monkeypatch):
    steps = slow_down(monkeypatch, 0.1)
    service = tiny_service(folder, max_rows=1, max_new_tokens=200, timeout=0.4)
    with running(service) as client:
        with pytest.raises(openai.InternalServerError) as raised:
            client.openai(max_retries=2).chat.completions.create(**asking(WORDS))
        assert (raised.value.status_code, raised.value.code) == (504, "timeout")
        assert client.metric('medcap_requests_total{route="/v1/chat/completions",status="504"}') == 1
        with pytest.raises(openai.APIError, match="took too long"):
            list(client.openai().chat.completions.create(**asking(WORDS, stream=True)))
        wait_for(lambda: num_running(service) == 0)
    assert len(steps) < 199


def test_too_little_memory_of_the_device_is_a_reason_to_come_back(folder, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory at 0x7f00dead")

    with running(tiny_service(folder)) as client:
        monkeypatch.setattr(Decoder, "step", full)
        reply = client.chat(asking(WORDS))
        assert (reply.status, reply.error["code"], reply.headers["retry-after"]) == (503, "overloaded", "5")
        assert reply.headers["x-should-retry"] == "true"
