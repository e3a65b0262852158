"""What a data-loader worker does first: it outlives a request to stop, and ends where it cannot send a batch."""

from __future__ import annotations

import errno
import os
import sys
from multiprocessing.queues import Queue
from types import TracebackType
from typing import Any

from medcap.training.reliability.stopping import ignore_stop_signals

# Exit status of a worker that may open no more files; the run reads it in torch's message about the dead worker.
OUT_OF_FILES = 124
_OUT_OF_FILES_ERRORS = (errno.EMFILE, errno.ENFILE)


def begin_worker(worker_id: int = 0) -> None:
    """Settle a worker process; a ``worker_init_fn``.

    multiprocessing drops a batch that cannot be sent, prints a traceback and goes on: the run would wait for the batch
    for ever. Its server of file descriptors prints tracebacks without end where no more files may be opened. Here the
    worker ends in both cases, and the run with it, in one line.

    Args:
        worker_id: not used.
    """
    ignore_stop_signals(worker_id)
    # Private to Python, but the only place that hears of it. It changes this worker's process alone.
    Queue._on_queue_feeder_error = staticmethod(_end_at_lost_batch)
    sys.excepthook = _end_without_files


def _end_at_lost_batch(error: Exception, batch: Any) -> None:
    if getattr(error, "errno", None) in _OUT_OF_FILES_ERRORS:
        os._exit(OUT_OF_FILES)
    sys.stderr.write(f"medcap: a data-loader worker cannot send its batch: {error}\n")
    os._exit(1)


def _end_without_files(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if getattr(error, "errno", None) in _OUT_OF_FILES_ERRORS:
        os._exit(OUT_OF_FILES)
    sys.__excepthook__(kind, error, traceback)
