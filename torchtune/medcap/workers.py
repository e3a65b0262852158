"""Spread work over several processes: results in order; an item that kills its process fails without the others."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_AHEAD = 4  # batches a process that wait for it

_work: Callable[[Any], Any]  # of a worker process


def num_processors() -> int:
    """Count the processors that this program may use: a job's share of the machine, not the whole of it."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Divide items into batches of ``size``; the last one may be smaller."""
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def ordered_map(
    work: Callable[[Item], Result],
    batches: Iterable[list[Item]],
    processes: int,
    crashed: Callable[[Item], Result],
    *,
    fork: bool = False,
) -> Generator[list[Result]]:
    """Do something with every item in several processes, reading only as far ahead as keeps them busy.

    When a process dies, the items that were not done are done again, in ever smaller batches, until the item that kills
    its process is alone.

    Args:
        work: item -> result, which must be picklable. So must ``work``, where processes are not forked.
        batches: items that are handed to a process together.
        processes: how many; at least 1.
        crashed: returns the result of an item that ended the process that worked on it; it may raise.
        fork: fork the processes where that is possible, so that they have what this one has in memory. A process that
            is forked from one with threads can hang, so by default each starts afresh.

    Yields:
        The results of each batch, in order.

    Raises:
        Exception: what ``work`` raised, from the first item that raised.
    """
    pool = _Pool(work, crashed, "fork" if fork and "fork" in multiprocessing.get_all_start_methods() else "spawn")
    return pool.results(iter(batches), processes)


def settle_worker() -> None:
    """Prepare a worker process: it leaves Ctrl-C to its parent, shows no warnings, and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    threading.Thread(target=_end_with_parent, daemon=True).start()


class _Pool:
    def __init__(self, work: Callable[[Any], Any], crashed: Callable[[Any], Any], method: str) -> None:
        self._work, self._crashed, self._method = work, crashed, method

    def results(self, batches: Iterator[list[Any]], processes: int) -> Generator[list[Any]]:
        waiting: deque[tuple[list[Any], Future[list[Any]]]] = deque()
        pool = self._start(processes)
        try:
            while True:
                for batch in islice(batches, max(0, _AHEAD * processes - len(waiting))):
                    waiting.append((batch, pool.submit(_do, batch)))
                if not waiting:
                    return
                try:
                    results = waiting[0][1].result()
                except BrokenProcessPool:
                    # The item that caused it is unknown: repeat all items that are not done.
                    pool.shutdown(wait=True)
                    for batch, future in waiting:
                        yield self._again(batch) if future.exception() else future.result()
                    waiting.clear()
                    pool = self._start(processes)
                    continue
                waiting.popleft()
                yield results
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _again(self, batch: list[Any]) -> list[Any]:
        with self._start(1) as pool:
            try:
                return pool.submit(_do, batch).result()
            except BrokenProcessPool:
                pass
        if len(batch) == 1:
            return [self._crashed(batch[0])]
        half = len(batch) // 2
        return self._again(batch[:half]) + self._again(batch[half:])

    def _start(self, processes: int) -> ProcessPoolExecutor:
        context = multiprocessing.get_context(self._method)
        return ProcessPoolExecutor(processes, context, _begin, (self._work,))


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    settle_worker()


def _do(batch: list[Any]) -> list[Any]:
    return [_work(item) for item in batch]


def _end_with_parent() -> None:
    # A pool's processes hold both ends of its pipes: none of them would notice that the parent was killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
