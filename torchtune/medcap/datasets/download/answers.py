"""The answer to an HTTP request: its status, and what goes wrong while it is read, as our own errors."""

from __future__ import annotations

import email.utils
import time
from typing import Any

import httpx2

from medcap.datasets.download.faults import NO_CONNECTION, NoRange, Passing, Unavailable

PASSING_STATUSES = frozenset({408, 429, 500, 502, 503, 504})


class Response:
    """The open answer to a request, whose status is one of success."""

    def __init__(self, response: httpx2.Response) -> None:
        self.status, self.headers, self.links = response.status_code, response.headers, response.links
        self.iter_raw, self.iter_bytes = response.iter_raw, response.iter_bytes
        self.gained = 0

    def number(self, header: str) -> int | None:
        """Return a header's whole number."""
        text = self.headers.get(header, "")
        return int(text) if text.isdecimal() and len(text) <= 18 else None


class Open:
    """Opens an answer and turns what goes wrong, then or while it is read, into our errors."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._response: Response | None = None

    def __enter__(self) -> Response:
        try:
            response = self._stream.__enter__()
        except httpx2.InvalidURL as error:
            raise Unavailable(str(error)) from None
        except httpx2.HTTPError as error:
            raise _translated(error, 0) from None
        try:
            _check_status(response)
        except BaseException:
            self._stream.__exit__(None, None, None)
            raise
        self._response = Response(response)
        return self._response

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: Any) -> None:
        self._stream.__exit__(kind, error, traceback)
        if isinstance(error, httpx2.HTTPError):
            raise _translated(error, self._response.gained if self._response else 0) from None


def _translated(error: httpx2.HTTPError, gained: int) -> Exception:
    if isinstance(error, (httpx2.TooManyRedirects, httpx2.UnsupportedProtocol)):
        return Unavailable(str(error))
    words = "no byte came in time" if isinstance(error, httpx2.TimeoutException) else str(error) or type(error).__name__
    return Passing(f"{NO_CONNECTION} ({words})", gained=gained)


def _check_status(response: httpx2.Response) -> None:
    status = response.status_code
    if status in (200, 206):
        schemes = [step.url.scheme for step in response.history] + [response.url.scheme]
        if schemes[0] == "https" and "http" in schemes:
            raise Unavailable("the server leads from https to http, where anyone may change the file")
        return
    words = f"status {status} {response.reason_phrase}".rstrip()
    if status == 416:
        raise NoRange(words)
    if status in PASSING_STATUSES:
        raise Passing(words, wait=_retry_after(response.headers.get("retry-after", "")))
    if status in (401, 403):
        words += ": it asks for a login, or is not there"
    raise Unavailable(words)


def _retry_after(text: str) -> float | None:
    """Read the header in seconds or as a date (RFC 9110, 10.2.3)."""
    if text.strip().isdecimal():
        return float(text)
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return max(0.0, moment.timestamp() - time.time())
