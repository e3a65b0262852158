"""Stopping on request: SIGTERM, which clusters send before they take a node away, and Ctrl-C."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Slurm signals every process of a job and torchrun passes its own on: the same request comes twice within moments.
REPEAT_SECONDS = 1.0
PARENT_CHECK_SECONDS = 1.0
_CAN_WAIT_FOR_SIGNALS = hasattr(signal, "sigtimedwait")  # not on macOS; torch's own handler of SIGTERM stays there


class StopRequests:
    """Remembers that the run was asked to stop, so that it can save first; a second request stops it at once.

    The same signal again within ``REPEAT_SECONDS`` is not a second request. Signals that the program was started to
    ignore (``nohup``, a shell's background job) stay ignored. Outside of the main thread nothing is installed.

    Args:
        announce: whether to print a line on standard error; one process of a run is enough.

    Attributes:
        received: number of the first signal, None if there was none.
        announce: whether to announce it, as given; False once the user knows.

    Example:
        >>> with StopRequests() as stop:
        ...     for batch in batches:
        ...         step(batch)
        ...         if stop.received is not None:
        ...             save()
        ...             sys.exit(stop.exit_status)
    """

    def __init__(self, announce: bool = True) -> None:
        self.received: int | None = None
        self.announce = announce
        self._first = 0.0
        self._process = os.getpid()
        self._before: dict[int, Any] = {}

    @property
    def exit_status(self) -> int:
        """128 and the signal's number, as a shell reports it; 0 if there was none."""
        return 0 if self.received is None else 128 + self.received

    def __enter__(self) -> StopRequests:
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            for number in STOP_SIGNALS:
                before = signal.getsignal(number)
                # None: a handler that is not Python's, and that could not be put back.
                if before not in (signal.SIG_IGN, None):
                    self._before[number] = before
                    signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)
        self._before.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if os.getpid() != self._process:
            _stop_at_once(number)  # a forked process, which has nothing to save
        elif self.received is None:
            self.received, self._first = number, now
            if self.announce:
                name = signal.Signals(number).name
                start = "\n" if sys.stderr.isatty() else ""  # A progress bar has not ended its line.
                _print(f"{start}{name}: saving a checkpoint at the end of this step; a second one stops at once\n")
        elif number != self.received or now - self._first > REPEAT_SECONDS:
            _stop_at_once(number)


def ignore_stop_signals(worker_id: int = 0) -> None:
    """Make a data-loader worker outlive the request to stop: its process still needs batches for the step it is in.

    A ``worker_init_fn``. The terminal's Ctrl-C and a cluster's SIGTERM reach workers as well. SIGINT is ignored, and
    so is a SIGTERM that does not come from its parent process; another one after ``REPEAT_SECONDS`` ends it. A worker
    ends with its loader, or a second after its parent process has ended, whatever it is doing then.

    Args:
        worker_id: not used.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if _CAN_WAIT_FOR_SIGNALS:
        # Blocked here, so that the thread below gets it, with the sender's number, which a handler does not get.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True, name="parent-watch").start()


def _watch(parent: int) -> None:
    # torch's worker looks for its parent too, but then waits until its batches are read, which never happens then.
    first = float("inf")
    while os.getppid() == parent:
        if not _CAN_WAIT_FOR_SIGNALS:
            time.sleep(PARENT_CHECK_SECONDS)
            continue
        found = signal.sigtimedwait({signal.SIGTERM}, PARENT_CHECK_SECONDS)
        if found is None:
            continue
        if found.si_pid == parent:
            os._exit(0)  # as torch's own handler does, which the loader takes for a good end
        now = time.monotonic()
        first = min(first, now)
        if now - first > REPEAT_SECONDS:
            os._exit(128 + signal.SIGTERM)
    os._exit(1)


def _stop_at_once(number: int) -> None:
    # The default action and no exception: nothing may run on, no traceback, and the status is 128 + number.
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)


def _print(text: str) -> None:
    # print() may not be called again while the handler interrupts a print().
    with contextlib.suppress(OSError):
        os.write(2, text.encode())
