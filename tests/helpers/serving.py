"""A server in a thread of the test's process, and clients that look at every reply."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from PIL import Image
from starlette.routing import BaseRoute

from helpers.tiny_generation import tiny_generator
from helpers.waiting import PATIENCE
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.decoding.decoder import Decoder
from medcap.generation.generator import Generator
from medcap.generation.request import Generation
from medcap.serving.app import create_app
from medcap.serving.limits import Limits
from medcap.serving.server import Server, bind
from medcap.serving.service import Service

# What a reply must never hold: paths, tracebacks, addresses of memory, names of the libraries that failed.
LEAK = re.compile(rb"Traceback|File \"|site-packages|/(tmp|home|usr|root|var|etc|opt)/|\.py\b|0x[0-9a-f]{6}|PIL|torch")


@dataclass
class Reply:
    """What came back on a plain socket."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        return self.json["error"]


class Client:
    """Sends what no decent client sends; every reply is searched for leaks.

    Args:
        port: port of a server on this machine.
        key: key of the API.
    """

    def __init__(self, port: int, key: str | None = None) -> None:
        self.port = port
        self.headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self.base_url = f"http://127.0.0.1:{port}/v1"

    def openai(self, **options: Any) -> openai.OpenAI:
        """The real client, without its repetitions."""
        key = self.headers.get("Authorization", "Bearer none").removeprefix("Bearer ")
        defaults = {"base_url": self.base_url, "api_key": key, "max_retries": 0, "timeout": PATIENCE}
        return openai.OpenAI(**{**defaults, **options})

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """One request on a connection of its own; ``body`` is bytes, an iterable of chunks, or made JSON."""
        own = {**self.headers, "Content-Type": "application/json", **(headers or {})}
        if body is not None and not isinstance(body, bytes | Iterator):
            body = json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            # The reply may lie there already.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connection.request(method, path, body, own, encode_chunked=isinstance(body, Iterator))
            response = connection.getresponse()
            reply = Reply(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()
        return checked(reply)

    def chat(self, body: Any, **options: Any) -> Reply:
        """A chat completion request."""
        return self.request("POST", "/v1/chat/completions", body, **options)

    def is_answered(self) -> bool:
        """Whether the server answers. It may be told to give up clients that need less time than a busy machine has."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.request("GET", "/health").status == 200
        return False

    def connect(self) -> socket.socket:
        """A bare connection."""
        return socket.create_connection(("127.0.0.1", self.port), PATIENCE)

    def chat_at_once(self, body: Any, count: int) -> list[Reply]:
        """The same request from many clients; bare sockets, as so many real clients would take all of the processor."""
        request = self._chat_bytes(body, "Connection: close")

        async def ask() -> Reply:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            writer.write(request)
            head, _, content = (await reader.read()).partition(b"\r\n\r\n")
            writer.close()
            return checked(Reply(int(head.split()[1]), {}, content))

        async def ask_all() -> list[Reply]:
            return await asyncio.gather(*(ask() for _ in range(count)))

        return asyncio.run(ask_all())

    def begin_chat(self, body: dict[str, Any], connection: socket.socket | None = None) -> socket.socket:
        """Send a request and read nothing."""
        connection = connection or self.connect()
        connection.sendall(self._chat_bytes(body))
        return connection

    def _chat_bytes(self, body: Any, *lines: str) -> bytes:
        data = json.dumps(body).encode()
        head = ["POST /v1/chat/completions HTTP/1.1", f"Host: 127.0.0.1:{self.port}", "Content-Type: application/json"]
        head += [f"Content-Length: {len(data)}", *lines, *(f"{name}: {value}" for name, value in self.headers.items())]
        return "\r\n".join([*head, "", ""]).encode() + data

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        text = self.request("GET", "/metrics").body.decode()
        values = re.findall(rf"^{name}(?:{{.*}})? (.*)$", text, flags=re.MULTILINE)
        assert values, f"there is no metric {name}"
        return sum(map(float, values))


def checked(reply: Reply) -> Reply:
    """See that a reply tells nothing of the machine."""
    found = LEAK.search(reply.body) or LEAK.search(json.dumps(reply.headers).encode())
    assert found is None, f"a reply leaks {found.group()!r}: {reply.body[:500]!r}"
    return reply


@contextlib.contextmanager
def running(
    service: Service,
    keys: Sequence[str] = (),
    grace: float = PATIENCE,
    routes: Sequence[BaseRoute] = (),
    **options: Any,
) -> Iterator[Client]:
    """Run a server while the block lasts; its service is closed afterwards."""
    taken = bind("127.0.0.1", 0)
    client = Client(taken.getsockname()[1], keys[0] if keys else None)
    server = Server(create_app(service, keys, routes=routes, **options), service, grace)
    thread = threading.Thread(target=server.run, args=([taken],))
    thread.start()
    try:
        while not server.started:
            thread.join(0.01)
            assert thread.is_alive(), "the server did not start"
        yield client
    finally:
        server.should_exit = True
        thread.join(2 * PATIENCE)
        assert not thread.is_alive(), "the server did not end"


def tiny_service(folder: Path, *names: str, **limits: Any) -> Service:
    """A service of tiny runs over one decoder, named ``tiny`` unless told otherwise."""
    first = tiny_generator(folder)
    generators: dict[str, Generator] = {}
    for name in names or ("tiny",):
        generators[name] = first if not generators else tiny_generator(folder)
        generators[name].model.decoder = first.model.decoder
    return Service(generators, Limits(**{"max_new_tokens": 32, **limits}))


class InstantAnswers:
    """Stands in for a run's ``LiveGenerator``: it prepares prompts as that does, and every answer is "said" at once."""

    def __init__(self, live: LiveGenerator) -> None:
        self.prepare = live.prepare
        self.capacity = live.capacity

    def submit(self, prompt: Any, on_token: Callable[[int], None], on_end: Callable[[Any], None], index: int) -> None:
        on_end(Generation("said", [], "stop"))

    def cancel(self, ticket: Any) -> None:
        """Nothing to give up."""


def instant_service(folder: Path, *names: str, **limits: Any) -> Service:
    """A service that reads requests as any other, without a model that computes."""
    service = tiny_service(folder, *names, **limits)
    service.runs = {name: replace(run, live=InstantAnswers(run.live)) for name, run in service.runs.items()}
    return service


def noise_png(seed: int, width: int = 12, height: int = 10) -> bytes:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def image_part(data: bytes, kind: str = "image/png") -> dict[str, Any]:
    """An image as a part of a message."""
    return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{base64.b64encode(data).decode()}"}}


def url_part(url: str) -> dict[str, Any]:
    """An image that is named."""
    return {"type": "image_url", "image_url": {"url": url}}


def asking(text: str, *images: bytes, **fields: Any) -> dict[str, Any]:
    """The body of a request: images, then words."""
    parts = [*map(image_part, images), *([{"type": "text", "text": text}] if text else [])]
    return {"model": "tiny", "messages": [{"role": "user", "content": parts}], **fields}


def slow_down(patch: pytest.MonkeyPatch, seconds: float) -> list[int]:
    """Make every decoding step take longer, so that answers are still under way when a test looks.

    Returns:
        A list that gets an item with each step.
    """
    step, steps = Decoder.step, []

    def slow(decoder: Decoder, *arguments: Any, **options: Any) -> Any:
        steps.append(len(steps))
        time.sleep(seconds)
        return step(decoder, *arguments, **options)

    patch.setattr(Decoder, "step", slow)
    return steps
