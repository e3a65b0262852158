"""Bodies of requests: read within bounds of bytes and time, and got rid of where they are refused."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medcap.serving.api.api_error import UNSUPPORTED_ENCODING, ApiError, one_line, overloaded
from medcap.serving.service import Service

# Bytes that are still read of a body after its refusal, so that the client gets the reply instead of a reset
# connection.
DRAINED_BYTES = 64 * 2**20
DRAINED_SECONDS = 30.0


class ClientGone(Exception):
    """The client has closed its connection."""


@contextlib.asynccontextmanager
async def body_of(scope: Scope, receive: Receive, service: Service) -> AsyncGenerator[bytearray]:
    """Read a body; its bytes count as held while the block lasts.

    Args:
        scope: scope of the request.
        receive: receive function of the request.
        service: counts bytes and has the limits.

    Yields:
        The whole body.

    Raises:
        ApiError: 415 when it is compressed, 413 when it is too large, 429 when all bodies together are, 408 when it
            comes too slowly.
        ClientGone: when it does not come at all.
    """
    _refuse_compressed(scope)
    limits = service.limits
    too_large = ApiError(413, f"the body has more than {limits.max_body_bytes:,} bytes", "too_large")
    if _announced(scope) > limits.max_body_bytes:
        raise too_large
    body = bytearray()
    try:
        try:
            async with asyncio.timeout(limits.read_timeout):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    chunk = message.get("body", b"")
                    more = message.get("more_body", False)
                    # An announced length may be wrong or missing.
                    if len(body) + len(chunk) > limits.max_body_bytes:
                        raise too_large
                    if service.body_bytes + len(chunk) > limits.max_total_body_bytes:
                        raise overloaded("too much is being sent at this moment: come back later")
                    service.body_bytes += len(chunk)
                    body += chunk
        except TimeoutError:
            raise ApiError(408, "the body came too slowly", "timeout") from None
        yield body
    finally:
        service.body_bytes -= len(body)


class FinishBodies:
    """Reads on a while where an application replies before it has read the whole body.

    Closing at once would make the kernel drop the reply together with what was not read (RFC 9112, 9.6).

    Args:
        app: the application.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        headers = dict(scope.get("headers", ()))
        if scope["type"] != "http" or not (_announced(scope) or b"transfer-encoding" in headers):
            await self._app(scope, receive, send)
            return
        unread = True

        async def receive_and_note() -> Message:
            nonlocal unread
            message = await receive()
            unread = unread and message["type"] == "http.request" and message.get("more_body", False)
            return message

        async def send_and_drain(message: Message) -> None:
            if unread and message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
            last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not (unread and last):
                await send(message)
                return
            await send({**message, "more_body": True})
            # A client that waits for "100 Continue" has not begun to send.
            if b"expect" not in headers:
                await _drain(receive)
            await send({"type": "http.response.body"})

        await self._app(scope, receive_and_note, send_and_drain)


async def _drain(receive: Receive) -> None:
    drained, more = 0, True
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DRAINED_SECONDS):
            while more and drained < DRAINED_BYTES:
                message = await receive()
                drained += len(message.get("body", b""))
                more = message.get("more_body", False)


def _refuse_compressed(scope: Scope) -> None:
    """Refuse compressed bodies: a few bytes can hold gigabytes, and images hardly get smaller."""
    encodings = ", ".join(Headers(scope=scope).getlist("content-encoding"))
    if any(name.strip().lower() not in ("", "identity") for name in encodings.split(",")):
        raise ApiError(
            415,
            f"the body is compressed (Content-Encoding: {one_line(encodings, 100)}): send it as it is",
            UNSUPPORTED_ENCODING,
        )


def _announced(scope: Scope) -> int:
    length = dict(scope.get("headers", ())).get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0
