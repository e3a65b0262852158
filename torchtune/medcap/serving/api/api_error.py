"""Refusals and failures in the form that OpenAI's clients turn into their exceptions."""

from __future__ import annotations

from typing import Any

_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
# Statuses worth retrying; OpenAI's clients would retry every 408 and 5xx.
_WORTH_REPEATING = (429, 503)
UNSUPPORTED_ENCODING = "unsupported_encoding"


class ApiError(Exception):
    """The error that a client gets instead of an answer.

    [Contract] the message is made of our own words, numbers and what the client itself wrote: never the text of
    another exception, which may hold paths or addresses of memory.

    Args:
        status: HTTP status.
        message: message for the author of the client.
        code: code for programs.
        param: the field of the request that is meant.
        retry_after: seconds after which to come back.
    """

    def __init__(
        self, status: int, message: str, code: str, param: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        """As https://platform.openai.com/docs/guides/error-codes has it."""
        kind = _KINDS.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """``x-should-retry`` is read by OpenAI's clients (openai/_base_client.py, ``_should_retry``)."""
        headers = {"x-should-retry": "true" if self.status in _WORTH_REPEATING else "false"}
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        if self.code == UNSUPPORTED_ENCODING:
            headers["accept-encoding"] = "identity"
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        return headers


def one_line(text: str, most: int) -> str:
    """Show what a client wrote in a message.

    Args:
        text: the client's.
        most: characters to keep.

    Returns:
        The text without line breaks and other control characters.
    """
    return "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in text[:most])


def bad_request(message: str, param: str | None = None, code: str = "invalid_value") -> ApiError:
    """Return a request that must be written otherwise."""
    return ApiError(400, message, code, param)


def overloaded(message: str) -> ApiError:
    """Return a request that came at a bad time."""
    return ApiError(429, message, "overloaded", retry_after=1)


def internal_error(request_id: str) -> ApiError:
    """Return an internal failure; its reason is in the log with the id."""
    return ApiError(500, f"the server failed on this request; its log has the reason under {request_id}", "failed")
