"""Work for processes that start afresh and import it."""

import os
import signal


def double(item: int) -> int:
    """Twice an item."""
    return item * 2


def die_at_some(item: int) -> int:
    """The item itself, but for some that kill the process that works on them."""
    if item in (0, 30, 31, 69):
        os.kill(os.getpid(), signal.SIGKILL)
    return item
