"""How long a server asks to wait before the next request."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Mapping

_DURATION = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:(\d+(?:\.\d+)?)s)?(?:(\d+(?:\.\d+)?)ms)?")
_UNITS = (3600.0, 60.0, 1.0, 0.001)
# Larger numbers are a moment, in seconds or milliseconds since 1970, and not a time to wait.
_MOMENT_SECONDS = 10**9
_MOMENT_MILLISECONDS = 10**12


def asked_pause(headers: Mapping[str, str]) -> float | None:
    """Read the pause that a refusal asks for.

    Args:
        headers: headers of the response, by lower-case name. ``retry-after-ms``, ``retry-after`` (seconds or a date)
            and ``x-ratelimit-reset``, with ``-requests`` and ``-tokens`` after it (seconds, "6m0s", or a moment), are
            read in this order.

    Returns:
        Seconds; None where no pause is asked for.
    """
    milliseconds = _number(headers.get("retry-after-ms"))
    pauses = [None if milliseconds is None else milliseconds / 1000]
    after = headers.get("retry-after")
    pauses.append(_number(after) if _number(after) is not None else _until_date(after))
    # If several limits apply, the one that was reached counts.
    kinds = [
        kind
        for kind in ("", "-requests", "-tokens")
        if _number(headers.get(f"x-ratelimit-remaining{kind}")) in (None, 0)
    ]
    resets = [_reset(headers.get(f"x-ratelimit-reset{kind}")) for kind in kinds]
    pauses.append(max((reset for reset in resets if reset is not None), default=None))
    return next((pause for pause in pauses if pause is not None and 0 < pause < math.inf), None)


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _until_date(text: str | None) -> float | None:
    try:
        return None if text is None else email.utils.parsedate_to_datetime(text).timestamp() - time.time()
    except (ValueError, OverflowError, OSError):
        return None


def _reset(text: str | None) -> float | None:
    number = _number(text)
    if number is None:
        match = _DURATION.fullmatch(text.strip()) if text else None
        return (
            sum(unit * float(part or 0) for unit, part in zip(_UNITS, match.groups(), strict=True)) if match else None
        )
    if number >= _MOMENT_MILLISECONDS:
        return number / 1000 - time.time()
    return number - time.time() if number >= _MOMENT_SECONDS else number
