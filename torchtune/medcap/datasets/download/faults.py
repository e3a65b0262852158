"""What may go wrong while a file is fetched."""

from __future__ import annotations

from collections.abc import Iterable

NO_CONNECTION = "the connection failed"


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


def mirror_hint(reasons: Iterable[str], mirror: str) -> str:
    """Return what helps where no server could be reached; "" where one has answered, or a mirror was asked.

    Args:
        reasons: why files cannot be had, at least one.
        mirror: the mirror that was asked; "" for none.
    """
    if mirror or not all(NO_CONNECTION in reason for reason in reasons):
        return ""
    return "without a network, --mirror URL takes them from a server that you can reach (docs/download.md)"
