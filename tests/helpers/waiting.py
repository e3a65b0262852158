"""Waiting for what another thread or process does, however busy the machine is."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# Seconds. Only a fault takes this long, and a wait ends as soon as its condition holds.
PATIENCE = 180.0


def wait_for(condition: Callable[[], T], pause: float = 0.01) -> T:
    """Wait until a condition holds.

    Args:
        condition: asked again and again.
        pause: seconds between two times.

    Returns:
        What the condition gives as soon as that is true.

    Raises:
        TimeoutError: if it does not become true.
    """
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"what was waited for did not come within {PATIENCE:.0f} s")
        time.sleep(pause)
    return found
