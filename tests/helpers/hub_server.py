"""A stand-in for the hub's HTTP API on the loopback interface: it makes repositories and takes commits."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class HubServer:
    """What the stand-in has been told.

    Attributes:
        url: its address.
        repositories: name -> what it was made with.
        branches: (repository, branch) that were made.
        files: (repository, revision) -> path -> content.
        status: status of the answer to the next repository that is made; 200 is success.
    """

    def __init__(self) -> None:
        self.url = ""
        self.repositories: dict[str, dict[str, Any]] = {}
        self.branches: list[tuple[str, str]] = []
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.status = 200

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        """Do what a request asks."""
        parts = path.strip("/").split("/")
        if path == "/api/whoami-v2":
            return 200, {"name": "tester", "type": "user"}
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            if self.status != 200:
                return self.status, {"error": "You don't have the rights to create a model under the namespace other"}
            name = f"{asked.get('organization', 'tester')}/{asked['name']}"
            self.repositories.setdefault(name, asked)
            return 200, {"url": f"{self.url}/{name}", "name": name}
        repository = "/".join(parts[2:4])
        if len(parts) == 4:
            made = self.repositories.get(repository)
            if made is None:
                return 404, {"error": "Repository not found"}
            private = made.get("private", made.get("visibility") == "private")
            return 200, {"id": repository, "private": private, "siblings": []}
        kind, revision = parts[4], parts[5]
        if kind == "branch":
            self.branches.append((repository, revision))
            return 200, {}
        if kind == "preupload":
            files = [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in _files(body)]
            return 200, {"files": files}
        assert kind == "commit", path
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        stored = self.files.setdefault((repository, revision), {})
        for line in lines:
            if line["key"] == "file":
                stored[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        return 200, {"commitUrl": f"{self.url}/{repository}/commit/1", "commitOid": "1" * 40}


@contextmanager
def hub_server() -> Iterator[HubServer]:
    """Run the stand-in until the block ends."""
    hub = HubServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply()

        def do_POST(self) -> None:
            self._reply()

        def _reply(self) -> None:
            body = _read_body(self)
            status, content = hub.answer(self.path.partition("?")[0], body)
            encoded = json.dumps(content).encode()
            self.send_response(status)
            if status >= 400:
                self.send_header("X-Error-Message", content["error"])
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(encoded)))
            self.end_headers()
            self.wfile.write(encoded)

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _files(body: bytes) -> list[dict[str, Any]]:
    return list(json.loads(body)["files"])


def _read_body(handler: BaseHTTPRequestHandler) -> bytes:
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    body = b""
    while size := int(handler.rfile.readline(), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    handler.rfile.readline()
    return body
