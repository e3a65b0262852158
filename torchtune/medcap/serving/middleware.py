"""What surrounds every reply: headers, one line in the log, no secrets in failures, no strangers' pages."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Iterable

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medcap.serving.api.api_error import ApiError, internal_error
from medcap.serving.body import ClientGone
from medcap.serving.metrics import Metrics

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
CLIENT_GONE = 499  # as nginx logs it
# A page sets its own Content-Security-Policy; for anything else nothing may be loaded or run.
_DEFAULT_HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

logger = logging.getLogger("medcap.serving")


def error_response(error: ApiError) -> JSONResponse:
    """Return an error as a reply."""
    return JSONResponse(error.body, error.status, error.headers)


class Envelope:
    """Gives every request an id, every reply its headers, and every failure a reply without internal details.

    The id is in ``scope["state"]["request_id"]``, in the header ``x-request-id`` and in the log. Endpoints leave
    what the log's line should say besides in ``scope["state"]["log"]``: names and numbers, never content.

    Args:
        app: the application.
        metrics: counts replies.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = f"req-{secrets.token_hex(8)}"
        details: dict[str, object] = {}
        scope.setdefault("state", {}).update(request_id=request_id, log=details)
        status = 0

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in _DEFAULT_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except ClientGone:
            details["left"] = True
        except Exception:
            logger.exception("%s failed", request_id)
            if status:
                raise
            await error_response(internal_error(request_id))(scope, receive, send_with_headers)
        finally:
            status = CLIENT_GONE if details.pop("left", False) or not status else status
            route = _route(scope)
            self._metrics.requests.labels(route, status).inc()
            shown = "".join(f" {name}={value}" for name, value in details.items())
            seconds = time.perf_counter() - began
            logger.info("%s %s status=%d seconds=%.3f%s", request_id, route, status, seconds, shown)


class OwnNamesOnly:
    """Refuses what a browser sends on behalf of a stranger's page.

    A page of another site can send requests to this machine, also to a loopback address. Where its own name resolves
    to this machine (DNS rebinding) the browser takes the two for one site, so the name in ``Host`` is checked. Where it
    does not, the browser names the page's site in ``Origin`` and ``Sec-Fetch-Site``. Programs send neither.

    Args:
        app: the application.
        names: hosts that are ours, without ports; None for any.
    """

    def __init__(self, app: ASGIApp, names: Iterable[str] | None) -> None:
        self._app = app
        self._names = None if names is None else {name.lower().strip("[]") for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As ASGI has it."""
        error = self._error(Headers(scope=scope)) if scope["type"] == "http" else None
        await (self._app if error is None else error_response(error))(scope, receive, send)

    def _error(self, headers: Headers) -> ApiError | None:
        host = headers.get("host", "").lower()
        if self._names is not None and _name_of(host) not in self._names:
            return ApiError(
                403, "this server is not called by this name: start it with --allowed-host", "host_not_allowed"
            )
        origin = headers.get("origin")
        strange = origin is not None and origin.lower().partition("://")[2] != host
        if strange or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return ApiError(403, "pages of other sites may not use this server", "origin_not_allowed")
        return None


def _name_of(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".")


def _route(scope: Scope) -> str:
    """Return where the request went; of an unknown path nothing is shown, it is the client's text."""
    return getattr(scope.get("route"), "path", None) or "unknown"
