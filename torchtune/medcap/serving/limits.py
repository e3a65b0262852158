"""What one server does for its clients at most."""

from __future__ import annotations

from dataclasses import dataclass, fields

from medcap.errors import UserError

MEGABYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """Bounds that hold whatever clients send.

    Args:
        max_rows: most answers that one language model decodes together.
        max_queue: most requests that wait beyond those; further ones get status 429.
        max_seq_len: most tokens of a conversation and its answer.
        max_new_tokens: most tokens of an answer, and how many there are where a request does not say.
        max_body_bytes: most bytes of one request.
        max_total_body_bytes: most bytes of all requests that are read or prepared at one moment.
        max_pixels: width x height of an image, by its header.
        max_images: most images of one request.
        max_messages: most messages of one request.
        max_regions: most regions of one request.
        timeout: seconds from a request's arrival to the end of its answer.
        read_timeout: seconds within which a request's head, and then its body, must come.
        send_timeout: seconds within which a client must take what it is sent.
        max_connections: most clients that are connected.

    Raises:
        UserError: if a value is not above 0 (``max_queue`` may be 0), or one request would not fit into all.
    """

    max_rows: int = 16
    max_queue: int = 64
    max_seq_len: int = 2048
    max_new_tokens: int = 512
    max_body_bytes: int = 32 * MEGABYTE
    max_total_body_bytes: int = 256 * MEGABYTE
    max_pixels: int = 32_000_000
    max_images: int = 8
    max_messages: int = 64
    max_regions: int = 16
    timeout: float = 120.0
    read_timeout: float = 30.0
    send_timeout: float = 30.0
    max_connections: int = 1024

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            lowest = 0 if item.name == "max_queue" else 1e-9
            if not lowest <= value < float("inf"):
                raise UserError(f"{item.name}={value}: it must be {'at least' if lowest == 0 else 'above'} 0")
        if self.max_total_body_bytes < self.max_body_bytes:
            raise UserError(
                f"max_total_body_bytes={self.max_total_body_bytes} is less than one body may have"
                f" (max_body_bytes={self.max_body_bytes})"
            )

    @property
    def max_characters(self) -> int:
        """Most characters of a conversation: a token has no more than this many."""
        return 16 * self.max_seq_len
