import asyncio
import socket
import threading

import pytest

from helpers.serving import asking, running, slow_down, tiny_service
from helpers.waiting import PATIENCE, wait_for
from medcap.generation.decoding.decoder import Decoder
from medcap.serving.body import ClientGone
from medcap.serving.completion import EventStream, while_connected

WORDS = "Is there a circle?"


@pytest.mark.slow
def test_a_client_that_stops_reading_neither_holds_a_row_nor_others(folder, monkeypatch):
    steps = slow_down(monkeypatch, 0.0)
    # Nobody gives up the client that does not read; the one row is free nevertheless.
    service = tiny_service(folder, max_rows=1, max_new_tokens=200, send_timeout=3600.0)
    with running(service) as client:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        connection.connect(("127.0.0.1", client.port))
        client.begin_chat(asking(WORDS, stream=True), connection)
        wait_for(lambda: steps)
        assert client.chat(asking(WORDS, max_tokens=2)).status == 200
        assert len(steps) >= 199
        wait_for(lambda: service.runs["tiny"].live.num_running == 0)
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

    with pytest.raises(ClientGone):
        asyncio.run(asyncio.wait_for(EventStream(Pieces(), Never(), send, send_timeout=0.1).run(), PATIENCE))
    assert len(sent) == 4


@pytest.mark.slow
def test_a_stream_that_waits_sends_signs_of_life(folder, monkeypatch):
    monkeypatch.setattr("medcap.serving.completion._QUIET_SECONDS", 0.1)
    gave_sign, send, step = threading.Event(), EventStream._data, Decoder.step

    async def send_and_note(stream, data):
        await send(stream, data)
        if data == b": waiting\n\n":
            gave_sign.set()

    def step_after_a_sign(*arguments, **options):
        assert gave_sign.wait(PATIENCE)
        gave_sign.clear()
        return step(*arguments, **options)

    monkeypatch.setattr(EventStream, "_data", send_and_note)
    monkeypatch.setattr(Decoder, "step", step_after_a_sign)
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
