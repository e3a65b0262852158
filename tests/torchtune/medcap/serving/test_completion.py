import asyncio
import socket
import time

import pytest

from helpers.serving import asking, running, slow_down, tiny_service, wait_for
from medcap.serving.body import ClientGone
from medcap.serving.completion import EventStream, while_connected

WORDS = "Is there a circle?"


@pytest.mark.slow
def test_a_client_that_stops_reading_neither_holds_a_row_nor_others(folder):
    service = tiny_service(folder, max_rows=1, max_new_tokens=200, send_timeout=1.0)
    with running(service) as client:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.connect(("127.0.0.1", client.port))
        client.begin_chat(asking(WORDS, stream=True), connection)
        wait_for(lambda: service.metrics.generated_tokens.labels("tiny")._value.get() == 200)
        assert client.chat(asking(WORDS, max_tokens=2)).status == 200
        assert service.runs["tiny"].live.num_running == 0
        connection.close()


def test_a_stream_that_nobody_takes_is_given_up():
    class Never:
        async def next_piece(self):
            return "word"

    class Pieces:
        def chunk(self, delta, finish=None):
            return delta

    sent = []

    async def send(message):
        sent.append(message)
        if len(sent) > 3:
            await asyncio.Event().wait()

    began = time.perf_counter()
    with pytest.raises(ClientGone):
        asyncio.run(EventStream(Pieces(), Never(), send, send_timeout=0.1).run())
    assert len(sent) == 4 and time.perf_counter() - began < 1


@pytest.mark.slow
def test_a_stream_that_waits_sends_signs_of_life(folder, monkeypatch):
    monkeypatch.setattr("medcap.serving.completion._QUIET_SECONDS", 0.1)
    slow_down(monkeypatch, 0.3)
    with running(tiny_service(folder)) as client:
        reply = client.chat(asking(WORDS, stream=True, max_tokens=2))
        assert b": waiting\n\n" in reply.body and reply.body.endswith(b"data: [DONE]\n\n")
        chunks = list(client.openai().chat.completions.create(**asking(WORDS, stream=True, max_tokens=2)))
        assert chunks[-1].choices[0].finish_reason == "length"


def test_work_ends_with_the_client():
    ended = []

    async def work():
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def receive():
        await asyncio.sleep(0.01)
        return {"type": "http.disconnect"}

    with pytest.raises(ClientGone):
        asyncio.run(while_connected(receive, work()))
    assert ended == [True]


def test_what_work_returns_or_raises_comes_through():
    async def receive():
        await asyncio.Event().wait()

    async def seven():
        return 7

    async def failing():
        raise KeyError("x")

    assert asyncio.run(while_connected(receive, seven())) == 7
    with pytest.raises(KeyError):
        asyncio.run(while_connected(receive, failing()))
