"""What a data-loader worker does first: it outlives a request to stop, and ends where it cannot send a batch."""

from __future__ import annotations

import errno
import os
import sys
from multiprocessing.queues import Queue
from types import TracebackType
from typing import Any

from medcap.training.reliability.stopping import ignore_stop_signals

# Exit statuses of a worker that cannot send its batches; the run reads them in torch's message about the dead worker.
OUT_OF_FILES, OUT_OF_SHARED_MEMORY = 124, 125
# torch's message when a batch's memory cannot be allocated.
SHARED_MEMORY = (
    "unable to open shared memory object",
    "unable to allocate shared memory",
    "unable to write to file </torch_",
)


def begin_worker(worker_id: int = 0) -> None:
    """Settle a worker process; a ``worker_init_fn``.

    multiprocessing drops a batch that cannot be sent, prints a traceback and continues: the run would wait for the
    batch for ever. Its server of file descriptors prints tracebacks without end where no more files may be opened. Here
    the worker ends in both cases, and the run with it, in one line.

    Args:
        worker_id: not used.
    """
    ignore_stop_signals(worker_id)
    # A private name of Python, but the only place where the error is visible. The change concerns this worker only.
    queue: Any = Queue
    queue._on_queue_feeder_error = staticmethod(_end_at_lost_batch)
    sys.excepthook = _end_without_files


def is_out_of_files(error: BaseException) -> bool:
    """Return whether an error is about the limit of open files."""
    by_number = isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)
    # The last are Python's words where a descriptor was sent and the limit kept it out.
    return by_number or any(words in str(error) for words in ("Too many open files", "items of ancdata"))


def _end_at_lost_batch(error: Exception, batch: Any) -> None:
    if is_out_of_files(error):
        os._exit(OUT_OF_FILES)
    if any(words in str(error) for words in SHARED_MEMORY):
        os._exit(OUT_OF_SHARED_MEMORY)
    sys.stderr.write(f"a data-loader worker cannot send its batch: {error}\n")
    os._exit(1)


def _end_without_files(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if is_out_of_files(error):
        os._exit(OUT_OF_FILES)
    sys.__excepthook__(kind, error, traceback)
