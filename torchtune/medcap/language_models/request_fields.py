"""The fields of a request that servers do not agree about."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from typing import Any

from medcap.errors import UserError

# Fields that the caller sets.
_OWN = ("model", "messages", "stream", "n")
# OpenAI's reasoning models take the limit under this name only, other servers only under the old one.
_OTHER_NAMES = {"max_tokens": "max_completion_tokens"}
_CODES = ("unsupported_parameter", "unsupported_value", "unknown_parameter")
_REFUSED = re.compile(
    r"unsupported|(?:not|n't|no longer) (?:support|permit|allow|accept)|unrecogni[sz]ed|unknown|unexpected|deprecated"
    r"|extra inputs|extra fields|extra_forbidden",
    re.IGNORECASE,
)


class RequestFields:
    """The fields of a request besides model and messages; a field that the server refuses is remembered.

    Args:
        max_new_tokens: most tokens of a reply.
        given: further fields, or other values of these; None leaves a field out.

    Attributes:
        notices: what was changed for this server, one line each.

    Raises:
        UserError: if a field is given that the caller decides.
    """

    def __init__(self, max_new_tokens: int, given: Mapping[str, Any] | None = None) -> None:
        for name in given or ():
            if name in _OWN:
                raise UserError(f"request.{name}: medcap sets {name} itself; drop it")
        fields = {"temperature": 0, "max_tokens": max_new_tokens, **(given or {})}
        self._fields = {name: value for name, value in fields.items() if value is not None}
        self._lock = threading.Lock()
        self.notices: list[str] = []

    @property
    def current(self) -> dict[str, Any]:
        """The fields of the next request."""
        return dict(self._fields)

    def adapt(self, sent: Mapping[str, Any], code: Any, param: Any, message: str) -> str | None:
        """Change what a server refused.

        Args:
            sent: the fields of the refused request.
            code: the error's code, as OpenAI's servers send it.
            param: the field that the error names there; other servers send anything.
            message: the error's words.

        Returns:
            None where the refusal is not about one of the fields; otherwise the request is to be sent again, and the
            text is what was changed: "" where another request has met the same refusal before.
        """
        name = param if isinstance(param, str) and param in sent else _first_named(sent, message)
        if name is None or not (code in _CODES or _REFUSED.search(message)):
            return None
        with self._lock:
            if sent != self._fields:
                return ""
            value = self._fields.pop(name)
            other = _OTHER_NAMES.get(name)
            if other is None or other in self._fields:
                notice = f"the server does not take {name}={value}: it is left out"
            else:
                self._fields[other] = value
                notice = f"the server does not take {name}: {other} is sent instead"
            self.notices.append(notice)
        return notice


def _first_named(sent: Mapping[str, Any], message: str) -> str | None:
    positions = {name: match.start() for name in sent if (match := re.search(rf"\b{re.escape(name)}\b", message))}
    return min(positions, key=positions.__getitem__) if positions else None
