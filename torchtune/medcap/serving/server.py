"""The process: its socket, connections that must not linger, and an end that finishes what was begun."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import sys
from functools import partial
from types import FrameType
from typing import Any

import h11
import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from medcap.errors import UserError
from medcap.serving.limits import Limits
from medcap.serving.service import Service

BACKLOG = 1024
# Longer than OpenAI's clients keep an idle connection (5 s), so that they never send into one that is being closed.
KEEP_ALIVE_SECONDS = 10
# Files and sockets that are not clients' connections.
_OTHER_FILES = 256


def bind(host: str, port: int) -> socket.socket:
    """Take an address; clients cannot connect yet.

    Args:
        host: name or address.
        port: 0 for any free one.

    Returns:
        The socket.

    Raises:
        UserError: if it is not available.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        taken = socket.socket(family, kind, protocol)
        # A restart must not wait for the connections of the process before it.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except (OSError, OverflowError) as error:
        raise UserError(f"--host {host} --port {port} cannot be used: {error}") from error
    return taken


class Connection(H11Protocol):
    """A client's connection that must send a whole request head in time, and take what it is sent.

    Args:
        head_timeout: seconds.
        send_timeout: seconds.
        max_connections: the next one is closed at once.
        options: uvicorn's own.
    """

    def __init__(self, *, head_timeout: float, send_timeout: float, max_connections: int, **options: Any) -> None:
        super().__init__(**options)
        self._head_timeout = head_timeout
        self._send_timeout = send_timeout
        self._max_connections = max_connections
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for a head; uvicorn itself waits for ever."""
        super().connection_made(transport)
        if len(self.connections) > self._max_connections:
            transport.abort()
            return
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            # Our timeouts do not cover data in the kernel's send buffer; TCP_USER_TIMEOUT does.
            milliseconds = int(1000 * self._send_timeout)
            taken = transport.get_extra_info("socket")
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        """Continue to wait while a head is incomplete."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self._head_timer is None:
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing to wait for."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_head(self) -> None:
        self._head_timer = self.loop.call_later(self._head_timeout, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class Server(uvicorn.Server):
    """Ends with status 0 after SIGTERM or SIGINT, at once after a second one.

    Args:
        app: the application.
        service: its service.
        grace: seconds that begun requests have after the first signal.
    """

    def __init__(self, app: Starlette, service: Service, grace: float = 30.0) -> None:
        limits = service.limits
        connection = partial(
            Connection,
            head_timeout=limits.read_timeout,
            send_timeout=limits.send_timeout,
            max_connections=_affordable(limits.max_connections),
        )
        super().__init__(
            uvicorn.Config(
                app,
                http=connection,  # type: ignore[arg-type]
                ws="none",
                loop="asyncio",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                # Headers of a proxy could name any client; nothing here depends on a client's address.
                proxy_headers=False,
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                # The service ends what is left after the grace; this is for connections that then still hang.
                timeout_graceful_shutdown=int(grace) + 5,
            )
        )
        self._service = service
        self._grace = grace

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take no more requests and finish what was begun; at the second signal end.

        uvicorn's own would end the process by the signal, with another status than 0.
        """
        if self.should_exit:
            sys.stderr.flush()
            os._exit(128 + sig)
        self.should_exit = True
        self._service.stop_taking()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the port, wait for running requests, and cancel the rest after the grace period."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._grace, lambda: loop.run_in_executor(None, self._service.close, True))
        try:
            await super().shutdown(sockets)
        finally:
            timer.cancel()


def raise_file_limit(limits: Limits) -> None:
    """Allow this process as many open files as its connections need, where the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = limits.max_connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard)
        )


def _affordable(max_connections: int) -> int:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max_connections if soft == resource.RLIM_INFINITY else max(1, min(max_connections, soft - _OTHER_FILES))
