"""Streams, events and the current device of a pretend GPU."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from helpers.pretend_graph import count, underway

_local = threading.local()  # a thread's GPU


def current_device() -> int:
    """Return the number of this thread's GPU: the first one, unless it chose another."""
    return getattr(_local, "device", 0)


def set_device(device: torch.device) -> None:
    """Stand for ``torch.cuda.set_device``, for this thread only."""
    _local.device = device.index


@contextlib.contextmanager
def on_device(device: torch.device) -> Iterator[None]:
    """Stand for ``torch.cuda.device``."""
    before = current_device()
    set_device(device)
    try:
        yield
    finally:
        set_device(torch.device("cuda", before))


def wait_for_all() -> None:
    """Stand for ``torch.cuda.synchronize``, which ends a capture in whatever thread."""
    assert not underway, "a wait for the whole GPU while something is captured"
    count("waits")


class Stream:
    """A stream or an event: everything is done at once."""

    def __init__(self, device: Any = None, **__: Any) -> None:
        self.cuda_stream = 0
        self.device = torch.device("cuda", current_device() if device is None else device.index or 0)

    def synchronize(self) -> None:
        count("waits")

    def record_event(self, *_: Any) -> Stream:
        return Stream()

    def wait_event(self, event: Any) -> None: ...

    def wait_stream(self, stream: Any) -> None: ...

    def record(self, *_: Any) -> None: ...

    def query(self) -> bool:
        return True


class Event(Stream):
    def elapsed_time(self, end: Any) -> float:
        return 0.0
