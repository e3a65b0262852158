import contextlib
import gzip
import json
import select

import pytest

from helpers.serving import asking, running, tiny_service
from helpers.waiting import PATIENCE, wait_for
from medcap.serving import body as body_module

MEGABYTE = 2**20
WORDS = "Is there a circle?"


@pytest.fixture(scope="module")
def small(folder):
    """A server with narrow bounds, and its service."""
    limits = {"max_body_bytes": MEGABYTE, "max_total_body_bytes": 2 * MEGABYTE, "read_timeout": 3600.0}
    service = tiny_service(folder, **limits)
    with running(service) as client:
        yield client, service


@pytest.fixture
def hasty(folder):
    """A server that does not wait long for a body, and its service."""
    service = tiny_service(folder, read_timeout=1.0)
    with running(service) as client:
        yield client, service


@pytest.fixture(autouse=True)
def time_for_the_rest(monkeypatch):
    """Let the server read what comes after a refusal, however long that takes."""
    monkeypatch.setattr(body_module, "DRAINED_SECONDS", PATIENCE)


def is_alive(client):
    return client.chat(asking(WORDS, max_tokens=1)).status == 200


def chunks(count, size=MEGABYTE):
    for _ in range(count):
        yield b"x" * size


@pytest.mark.slow
def test_50_megabytes_are_refused_with_a_length_and_without(small):
    client, service = small
    for body in (b"x" * (50 * MEGABYTE), chunks(50)):
        reply = client.chat(body)
        assert (reply.status, reply.error["code"]) == (413, "too_large")
        assert reply.headers["connection"] == "close"
    assert service.body_bytes == 0
    assert is_alive(client)


def test_a_body_without_end_is_cut_off(small, monkeypatch):
    client, service = small
    monkeypatch.setattr(body_module, "DRAINED_BYTES", 4 * MEGABYTE)
    with client.connect() as connection:
        connection.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        piece = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
        with pytest.raises(ConnectionError):
            for _ in range(20 * 1024):
                connection.sendall(piece)
    assert service.body_bytes == 0
    assert is_alive(client)


def head(*lines):
    named = ["POST /v1/chat/completions HTTP/1.1", "Host: 127.0.0.1", "Content-Type: application/json", *lines]
    return "\r\n".join([*named, "", ""]).encode()


def exchange(client, *data, dripping=b""):
    """Everything that comes back after sending some bytes, and one more each tenth of a second until something does."""
    received = b""
    # A head that takes longer than the server waits gets no reply.
    with client.connect() as connection, contextlib.suppress(ConnectionError):
        for piece in data:
            connection.sendall(piece)
        while dripping and not select.select([connection], [], [], 0.1)[0]:
            connection.sendall(dripping)
        while piece := connection.recv(65536):
            received += piece
    return received


@pytest.mark.slow
def test_a_length_that_promises_more_than_comes_is_given_up(hasty, monkeypatch):
    client, service = hasty
    monkeypatch.setattr(body_module, "DRAINED_SECONDS", 0.2)
    reply = wait_for(lambda: exchange(client, head("Content-Length: 1000"), b'{"model"'))
    assert reply.startswith(b"HTTP/1.1 408 ") and b'"code":"timeout"' in reply
    assert service.body_bytes == 0
    wait_for(client.is_answered)


def test_a_length_that_promises_less_than_comes_is_no_second_request(small):
    client, _ = small
    body = json.dumps(asking(WORDS)).encode()
    assert b'"code":"invalid_json"' in exchange(client, head("Content-Length: 10", "Connection: close") + body)
    assert is_alive(client)


@pytest.mark.parametrize(
    "line", ["Content-Length: -5", "Content-Length: 1e3", "Content-Length: " + "9" * 30, "Transfer-Encoding: gzip"]
)
def test_lengths_that_are_none_are_refused(small, line):
    client, _ = small
    assert exchange(client, head(line)).startswith(b"HTTP/1.1 4")
    assert is_alive(client)


@pytest.mark.slow
def test_a_body_that_drips_is_given_up(hasty, monkeypatch):
    client, _ = hasty
    monkeypatch.setattr(body_module, "DRAINED_SECONDS", 0.2)
    reply = wait_for(lambda: exchange(client, head("Content-Length: 100000"), dripping=b"{"))
    assert reply.startswith(b"HTTP/1.1 408 ")


def test_all_bodies_together_are_bounded(small):
    client, service = small
    held = []
    try:
        for _ in range(2):
            connection = client.connect()
            connection.sendall(head(f"Content-Length: {MEGABYTE}") + b" " * (MEGABYTE - 1000))
            held.append(connection)
        wait_for(lambda: service.body_bytes > 2 * MEGABYTE - 3000)
        reply = client.chat(b" " * 100_000)
        assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        assert client.request("GET", "/health").status == 200
    finally:
        for connection in held:
            connection.close()
    wait_for(lambda: service.body_bytes == 0)
    assert is_alive(client)


def test_who_waits_for_a_sign_to_send_is_refused_without_sending(small):
    client, _ = small
    reply = exchange(client, head(f"Content-Length: {5 * MEGABYTE}", "Expect: 100-continue"))
    assert reply.startswith(b"HTTP/1.1 413 ") and b"100 Continue" not in reply


def test_the_type_of_the_body_must_be_json(small):
    client, _ = small
    # These three a page of any site can send without asking.
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        reply = client.chat(asking(WORDS), headers={"Content-Type": kind})
        assert (reply.status, reply.error["code"]) == (415, "unsupported_media_type")
    assert client.chat(asking(WORDS), headers={"Content-Type": "Application/JSON; charset=utf-8"}).status == 200


@pytest.mark.parametrize("name", ["gzip", "GZIP", "x-gzip", "deflate", "br", "zstd", "identity, gzip", "nothing"])
@pytest.mark.parametrize("length", ["announced", "chunked"])
def test_a_compressed_body_is_refused_by_the_name_of_its_encoding(small, name, length):
    client, service = small
    bomb = gzip.compress(b" " * (20 * MEGABYTE))
    reply = client.chat(bomb if length == "announced" else iter([bomb]), headers={"Content-Encoding": name})
    assert (reply.status, reply.error["code"]) == (415, "unsupported_encoding")
    assert reply.error["message"] == f"the body is compressed (Content-Encoding: {name}): send it as it is"
    assert (reply.headers["accept-encoding"], reply.headers["x-should-retry"]) == ("identity", "false")
    assert service.body_bytes == 0 and is_alive(client)


def test_a_body_that_says_that_it_is_not_compressed_is_read(small):
    client, _ = small
    for name in ("identity", "Identity", ""):
        assert client.chat(asking(WORDS, max_tokens=1), headers={"Content-Encoding": name}).status == 200
