"""Images as data URLs: the bytes that came with a request."""

from __future__ import annotations

import binascii
import re
from urllib.parse import unquote_to_bytes

from medcap.serving.api.api_error import bad_request

# The scheme and "base64" are written in any case, parameters may be quoted (RFC 2397).
_HEAD = re.compile(r'\s*data:(?:[^,"]|"[^"]*")*?;\s*base64\s*,', re.ASCII | re.IGNORECASE)
_MAX_HEAD = 1000
# Line breaks of a wrapped base64 text, and the URL-safe alphabet, which cannot be taken for anything else.
_BLANKS = b" \t\n\r\f"
_PLAIN = bytes.maketrans(b"-_", b"+/")


def read_data_url(url: str, field: str) -> bytes:
    """Decode a data URL.

    What browsers and libraries write is read: white space, missing padding, percent encoding and the URL-safe alphabet.

    Args:
        url: URL from a request.
        field: field of the request, for the error message.

    Returns:
        The content; what the URL says of its type does not matter.

    Raises:
        ApiError: 400, if it is another URL, or its base64 is damaged.
    """
    head = _HEAD.match(url[:_MAX_HEAD])
    if head is None:
        raise bad_request(
            f"'{field}' must be a data URL with base64 (data:image/png;base64,...): this server fetches no address"
            " and opens no file",
            field,
            "unsupported_image_url",
        )
    try:
        data = url[head.end() :].encode("ascii")
        if b"%" in data:
            data = unquote_to_bytes(data)
        data = data.translate(_PLAIN, _BLANKS)
        data = data.removesuffix(b"=").removesuffix(b"=")
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4), strict_mode=True)
    except ValueError:
        raise bad_request(f"'{field}' holds no valid base64", field, "invalid_base64") from None
