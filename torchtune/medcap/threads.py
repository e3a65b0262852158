"""Threads beside a model, which do not slow down its own operations on a CPU.

OpenMP gives each thread that runs a large operation worker threads of its own, which stay as long as that thread does.
Where there are more of them than processors, all go to sleep at the end of each operation instead of waiting ready for
the next one (libgomp's ``gomp_throttled_spin_count_var``), which slows down the short operations of a decoding step.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from medcap.workers import num_processors

Result = TypeVar("Result")

_changing = threading.Lock()


def reading_threads(most: int, name: str = "") -> ThreadPoolExecutor:
    """Make threads that prepare images while a model computes; each uses one processor.

    Args:
        most: how many threads there are at most; never more than processors.
        name: what their names begin with.
    """
    return ThreadPoolExecutor(min(most, num_processors()), name, initializer=_use_one_processor)


def run_apart(function: Callable[[], Result]) -> Result:
    """Run a function in a thread that ends with it, as do the worker threads that OpenMP gave it.

    Args:
        function: what loads a model that another thread runs.

    Returns:
        What it returns. What it raises is raised here.
    """
    future: Future[Result] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    # Ctrl-C reaches this thread, and must not wait for the other one.
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join()
    return future.result()


def use_device(device: torch.device) -> None:
    """Make a model's GPU this thread's own: a new thread has the first one, whatever the others use.

    Args:
        device: device of the model.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)


def _use_one_processor() -> None:
    with _changing:
        number = torch.get_num_threads()  # torch sets it at a thread's first operation, over what was set before
        torch.set_num_threads(1)
        # That was set for new threads too: a short one sets it back.
        restoring = threading.Thread(target=torch.set_num_threads, args=(number,))
        restoring.start()
        restoring.join()
