import contextlib
import http.client
import signal
import socket
import threading
import time

import psutil
import pytest
from starlette.responses import Response
from starlette.routing import Route

from helpers.serving import asking, running, slow_down, tiny_service
from helpers.waiting import PATIENCE, wait_for
from medcap.errors import UserError
from medcap.generation.decoding.decoder import Decoder
from medcap.serving.app import create_app
from medcap.serving.server import Server, bind

WORDS = "Is there a circle?"


def read_to_end(connection):
    received = b""
    while piece := connection.recv(65536):
        received += piece
    return received


def wait_for_end(connection):
    """Wait until the server closes a connection; fails with a timeout if it does not."""
    with contextlib.suppress(ConnectionResetError):
        read_to_end(connection)


@pytest.mark.slow
@pytest.mark.parametrize("sent", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: b\r\n"])
def test_a_head_that_does_not_come_is_given_up(folder, sent):
    with running(tiny_service(folder, read_timeout=0.4)) as client:
        with client.connect() as connection:
            connection.sendall(sent)
            wait_for_end(connection)
        wait_for(client.is_answered)


@pytest.mark.slow
def test_a_head_that_drips_is_given_up_also_after_a_first_request(folder):
    def after_a_first_request():
        connection = client.connect()
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if connection.recv(65536).startswith(b"HTTP/1.1 200 "):
                return connection
        connection.close()  # a busy machine may need longer than the server waits
        return None

    def is_given_up():
        try:
            connection.sendall(b"a")
        except ConnectionError:
            return True
        return False

    with running(tiny_service(folder, read_timeout=0.4)) as client, wait_for(after_a_first_request) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: ")
        wait_for(is_given_up, pause=0.05)


@pytest.mark.slow
def test_answers_that_take_longer_than_a_head_may_are_not_cut_off(folder, monkeypatch):
    slow_down(monkeypatch, 0.1)
    with running(tiny_service(folder, read_timeout=0.3, max_new_tokens=8)) as client:
        # Where a busy machine is slow to send the head, the same is tried again.
        wait_for(lambda: is_whole(client))


def is_whole(client):
    with contextlib.suppress(ConnectionError, http.client.HTTPException):
        return client.chat(asking(WORDS)).status == 200
    return False


def test_connections_are_bounded(folder):
    with running(tiny_service(folder, max_connections=3, read_timeout=3600.0)) as client:
        held = [client.connect() for _ in range(3)]
        with client.connect() as one_more:
            wait_for_end(one_more)
        for connection in held:
            connection.close()
        wait_for(client.is_answered)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel does not give up by itself")
def test_a_client_that_takes_nothing_is_given_up(folder):
    large = Route("/large", lambda request: Response(bytes(50_000_000)))
    with running(tiny_service(folder, send_timeout=1), routes=[large]) as client, socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", client.port))
        connection.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(8) == b"HTTP/1.1"  # and no more
        wait_for(lambda: num_connections(client.port) == 0)


def num_connections(port):
    """The server's ends of connections that it has not given up."""
    found = psutil.Process().net_connections("tcp")
    return sum(item.laddr.port == port and item.status == "ESTABLISHED" for item in found)


@pytest.mark.parametrize("junk", [b"\x16\x03\x01\x02\x00\x01", b"\0" * 100, b"GET / HTTP/9\r\n\r\n", b"A" * 100_000])
def test_a_connection_that_is_not_http_is_closed(folder, junk):
    with running(tiny_service(folder, read_timeout=1)) as client:
        with client.connect() as connection:
            connection.sendall(junk)
            wait_for_end(connection)
        wait_for(client.is_answered)


@pytest.mark.slow
def test_the_end_waits_for_what_was_begun(folder, monkeypatch):
    step, all_are_there = Decoder.step, threading.Event()

    def wait_and_step(*arguments, **options):
        assert all_are_there.wait(PATIENCE)
        time.sleep(0.02)
        return step(*arguments, **options)

    monkeypatch.setattr(Decoder, "step", wait_and_step)
    service = tiny_service(folder, max_rows=1, max_new_tokens=20)
    replies = []
    with running(service) as client:
        threads = [threading.Thread(target=lambda: replies.append(client.chat(asking(WORDS)))) for _ in range(3)]
        for thread in threads:
            thread.start()
        wait_for(lambda: service.num_admitted == 3)
        all_are_there.set()
    for thread in threads:
        thread.join(PATIENCE)
    assert [reply.status for reply in replies] == [200] * 3
    with pytest.raises(ConnectionRefusedError):
        client.connect()


@pytest.mark.slow
def test_what_is_not_done_after_the_grace_is_reported_as_such(folder, monkeypatch):
    slow_down(monkeypatch, 0.1)  # 20 s for each of two answers
    service = tiny_service(folder, max_rows=1, max_new_tokens=200)
    replies = []
    with running(service, grace=0.3) as client:
        threads = [threading.Thread(target=lambda: replies.append(client.chat(asking(WORDS)))) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_for(lambda: service.num_admitted == 2)
    for thread in threads:
        thread.join(PATIENCE)
    assert [(reply.status, reply.error["code"]) for reply in replies] == [(503, "shutting_down")] * 2


def test_a_second_signal_ends_at_once(folder, monkeypatch):
    ended = []
    monkeypatch.setattr("os._exit", ended.append)
    service = tiny_service(folder)
    server = Server(create_app(service), service)
    server.handle_exit(signal.SIGTERM, None)
    assert (server.should_exit, service.is_healthy, ended) == (True, False, [])
    server.handle_exit(signal.SIGTERM, None)
    assert ended == [128 + signal.SIGTERM]
    service.close()


def test_an_address_that_is_taken_is_named():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port} cannot be used"):
            bind("127.0.0.1", port)
    with pytest.raises(UserError, match="--host nowhere"):
        bind("nowhere.invalid", 0)
