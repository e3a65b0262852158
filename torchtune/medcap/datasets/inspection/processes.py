"""Rows over several processes, results in their order; a row that kills its process fails alone."""

from __future__ import annotations

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

import numpy as np
from tqdm import tqdm

from medcap.datasets.image_pool import settle_worker

Result = TypeVar("Result")

_BATCH = 64  # rows
_AHEAD = 4  # batches a process that wait for it

_work: Callable[[int], Any]


def over_rows(
    work: Callable[[int], Result],
    rows: np.ndarray,
    processes: int,
    label: str,
    crashed: Callable[[int], Result],
) -> Iterator[Result]:
    """Do something with every row, reading only so far ahead as keeps the processes busy.

    Args:
        work: row number -> result, which must be picklable. Where processes cannot be forked, so must it be.
        rows: ``[n]`` int64 row numbers.
        processes: how many.
        label: what the progress bar says.
        crashed: the result for a row that ended the process that worked on it.

    Yields:
        The results, in the order of ``rows``.
    """
    pool = _Pool(work, crashed, processes)
    batches = (rows[start : start + _BATCH].tolist() for start in range(0, len(rows), _BATCH))
    with tqdm(total=len(rows), desc=label, unit="row", delay=1, mininterval=1, disable=None) as progress:
        for results in pool.results(batches):
            yield from results
            progress.update(len(results))


class _Pool(Generic[Result]):
    def __init__(self, work: Callable[[int], Result], crashed: Callable[[int], Result], processes: int) -> None:
        self._work, self._crashed, self._processes = work, crashed, processes

    def results(self, batches: Iterator[list[int]]) -> Iterator[list[Result]]:
        waiting: deque[tuple[list[int], Future[list[Result]]]] = deque()
        pool = self._start(self._processes)
        try:
            while True:
                while len(waiting) < _AHEAD * self._processes and (batch := next(batches, None)):
                    waiting.append((batch, pool.submit(_do, batch)))
                if not waiting:
                    return
                try:
                    results = waiting[0][1].result()
                except BrokenProcessPool:
                    # Whose fault it was is not known: what was not done is done again, batch by batch.
                    pool.shutdown(wait=True)
                    for batch, future in waiting:
                        yield self._again(batch) if future.exception() else future.result()
                    waiting.clear()
                    pool = self._start(self._processes)
                    continue
                waiting.popleft()
                yield results
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _again(self, batch: list[int]) -> list[Result]:
        """A batch that may hold a row that kills its process: by halves, until that row is alone."""
        with self._start(1) as pool:
            try:
                return pool.submit(_do, batch).result()
            except BrokenProcessPool:
                if len(batch) == 1:
                    return [self._crashed(batch[0])]
        half = len(batch) // 2
        return self._again(batch[:half]) + self._again(batch[half:])

    def _start(self, processes: int) -> ProcessPoolExecutor:
        # Forked, they have the tokenizer and the places of the rows already.
        methods = multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("fork" if "fork" in methods else None)
        return ProcessPoolExecutor(processes, context, _begin, (self._work,))


def _begin(work: Callable[[int], Any]) -> None:
    global _work
    _work = work
    settle_worker()


def _do(batch: list[int]) -> list[Any]:
    return [_work(row) for row in batch]
