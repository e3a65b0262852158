"""A server of files on the loopback interface that behaves as badly as it is told, and counts what it sends."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Fault:
    """What happens to one request.

    Attributes:
        status: answer with this status and no file.
        headers: headers of that answer.
        cut_after: send so many bytes of the body, then close the connection.
        pause: seconds before the body.
    """

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    pause: float = 0


@dataclass
class ServedFile:
    """A file and how it is served.

    Attributes:
        content: its bytes.
        etag: the validator; "" for none.
        ranges: whether parts may be asked for.
        kind: the Content-Type.
        faults: what happens to the next requests, in turn; requests after them are answered well.
        headers: further headers.
    """

    content: bytes
    etag: str = '"1"'
    ranges: bool = True
    kind: str = "application/octet-stream"
    faults: deque[Fault] = field(default_factory=deque)
    headers: dict[str, str] = field(default_factory=dict)


class FileServer:
    """What is served, and what was asked for.

    Attributes:
        url: its address.
        files: path, with its query, -> file.
        requests: path -> number of requests.
        sent: path -> bytes of bodies.
        ranges: path -> the Range headers of its requests, "" for none.
    """

    def __init__(self) -> None:
        self.url = ""
        self.files: dict[str, ServedFile] = {}
        self.requests: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.ranges: dict[str, list[str]] = {}

    def serve(self, path: str, content: bytes, *faults: Fault, **how: Any) -> ServedFile:
        """Serve a file at a path."""
        self.files[path] = ServedFile(content, faults=deque(faults), **how)
        return self.files[path]


@contextmanager
def file_server() -> Generator[FileServer]:
    """Run a server for the block."""
    state, lock = FileServer(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            with lock:
                state.requests[self.path] += 1
                state.ranges.setdefault(self.path, []).append(asked)
                file = state.files.get(self.path)
                fault = file.faults.popleft() if file and file.faults else Fault()
            if file is None or fault.status:
                self._answer(fault.status or 404, fault.headers, b"", Fault())
                return
            headers = {"Content-Type": file.kind, **({"ETag": file.etag} if file.etag else {}), **file.headers}
            span = re.fullmatch(r"bytes=(\d+)-", asked)
            same = self.headers.get("If-Range") in (None, file.etag)
            if span and file.ranges and same:
                start = int(span[1])
                if start >= len(file.content):
                    self._answer(416, {"Content-Range": f"bytes */{len(file.content)}"}, b"", fault)
                    return
                end = len(file.content) - 1
                headers["Content-Range"] = f"bytes {start}-{end}/{len(file.content)}"
                self._answer(206, headers, file.content[start:], fault)
            else:
                self._answer(200, headers, file.content, fault)

        def _answer(self, status: int, headers: dict[str, str], body: bytes, fault: Fault) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            time.sleep(fault.pause)
            part = body if fault.cut_after is None else body[: fault.cut_after]
            with lock:
                state.sent[self.path] += len(part)
            try:
                self.wfile.write(part)
                self.wfile.flush()
            except OSError:
                self.close_connection = True
            if fault.cut_after is not None:
                self.close_connection = True
                self.connection.close()

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.02), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
