"""JSON from files: whatever is wrong with it is one exception with its reason in one line."""

from __future__ import annotations

import json
import sys
from typing import Any

DEEPEST = 100  # levels; what reads or copies a value calls itself once or more for each


class JsonError(ValueError):
    """The text is not JSON that can be read.

    Attributes:
        reason: what is wrong, without a place.
        line: where, from 1; None where the decoder does not say.
        position: the character, from 0; None where the decoder does not say.
    """

    def __init__(self, reason: str, line: int | None = None, position: int | None = None) -> None:
        super().__init__(reason if line is None else f"{reason} in line {line}")
        self.reason, self.line, self.position = reason, line, position


def parse_json(text: str | bytes) -> Any:
    """Decode a JSON text.

    ``json.loads`` also raises ``RecursionError`` for brackets in brackets, ``ValueError`` for a number of thousands of
    digits, and ``UnicodeDecodeError`` for bytes.

    Args:
        text: one value; bytes are UTF-8.

    Returns:
        The value.

    Raises:
        JsonError: if it is not JSON, is nested more than ``DEEPEST`` levels deep, or has a number that is too long.
    """
    try:
        value = json.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise json_error(error) from error
    brackets = text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    if brackets > DEEPEST and _is_deeper(value, DEEPEST):
        raise JsonError(_TOO_DEEP)
    return value


_TOO_DEEP = "nested too deeply"


def json_error(error: Exception) -> JsonError:
    """Return what is wrong, of an exception that decoding JSON raised."""
    if isinstance(error, JsonError):
        return error
    if isinstance(error, json.JSONDecodeError):
        return JsonError(error.msg, error.lineno, error.pos)
    if isinstance(error, RecursionError):
        return JsonError(_TOO_DEEP)
    if isinstance(error, UnicodeDecodeError):
        return JsonError(f"not UTF-8 text: {error.reason} at byte {error.start}")
    return JsonError(f"a number has more than {sys.get_int_max_str_digits():,} digits")


def _is_deeper(value: Any, levels: int) -> bool:
    layer = [value]
    for _ in range(levels):
        layer = [
            child
            for node in layer
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
        if not layer:
            return False
    return any(isinstance(node, (dict, list)) for node in layer)
