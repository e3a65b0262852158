"""What may go wrong while a file is fetched."""

from __future__ import annotations


class Unavailable(Exception):
    """A file that cannot be had; the message is the reason, in words."""


class Stopped(Exception):
    """The program is ending; what came so far stays."""


class Passing(Exception):
    """A fault that may be gone at the next try.

    Args:
        reason: in words.
        wait: seconds to wait, where the server says it.
        gained: bytes that came before it.
    """

    def __init__(self, reason: str, wait: float | None = None, gained: int = 0) -> None:
        super().__init__(reason)
        self.wait, self.gained = wait, gained


class NoRange(Passing):
    """There is no such part of the file."""
