"""A server on this machine that speaks OpenAI's chat completions."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Text is a good reply; otherwise a status, a raw body and perhaps headers.
Respond = Callable[[str, int], "str | tuple[int, str] | tuple[int, str, dict[str, str]]"]
# A refusal without headers of its own asks for this pause: no test waits for the client's own.
SOON = {"Retry-After-Ms": "1"}


class ChatServer(ThreadingHTTPServer):
    """Replies to ``/v1/chat/completions`` with what ``respond(prompt, number of the request)`` returns.

    Attributes:
        requests: the bodies that came.
        keys: their Authorization headers.
        most_at_once: requests that were being answered at the same time.
    """

    daemon_threads = True

    def __init__(self, respond: Respond) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.respond = respond
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str] = []
        self.most_at_once = 0
        self.lock = threading.Lock()
        self.open = 0

    def handle_error(self, *_: object) -> None:
        """A client that gave up waiting is what some tests want; anything else is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(*_)

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    @property
    def prompts(self) -> list[str]:
        """The user turns that came, each as often as it was tried."""
        return [request["messages"][-1]["content"] for request in self.requests]


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            number = len(server.requests)
            server.requests.append(body)
            server.keys.append(self.headers.get("Authorization", ""))
            server.open += 1
            server.most_at_once = max(server.most_at_once, server.open)
        if self.path != "/v1/chat/completions":
            answer = (404, json.dumps({"error": {"message": f"no such path {self.path}"}}))
        else:
            answer = server.respond(body["messages"][-1]["content"], number)
        with server.lock:
            server.open -= 1
        status, text, *headers = (200, completion(answer)) if isinstance(answer, str) else answer
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        for name, value in (headers[0] if headers else {} if status == 200 else SOON).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def completion(content: Any, finish: str = "stop") -> str:
    """The body of a reply; ``content`` is mostly text."""
    choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content}}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return json.dumps(
        {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    )


@contextmanager
def chat_server(respond: Respond) -> Iterator[ChatServer]:
    """Run a server while the block lasts."""
    with ChatServer(respond) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def nobody_there() -> str:
    """The address of a server that does not run."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
