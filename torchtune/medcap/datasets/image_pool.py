"""Tasks over several processes: one that kills its process fails alone, and no process outlives the one that began."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice

from medcap.datasets.image_tasks import Picture, Task
from medcap.datasets.image_worker import Outcome, Worker

_BATCH = 8  # picture files; a shard is a batch of its own
_AHEAD = 3  # batches a process that wait for it
_CRASHED = "its decoder ended the process that read it (damaged file, or memory ran out)"

_worker: Worker


def run_tasks(worker: Worker, tasks: Iterable[Task], processes: int) -> Iterator[Outcome]:
    """Do tasks in several processes, reading only so far ahead as keeps them busy.

    Args:
        worker: does a task.
        tasks: in their order.
        processes: how many; 0 does them in this one.

    Yields:
        What became of each task, in their order.

    Raises:
        UserError: if something cannot be written.
    """
    if not processes:
        yield from map(worker.run, tasks)
        return
    batches = _batches(iter(tasks))
    waiting: deque[tuple[list[Task], Future[list[Outcome]]]] = deque()
    pool = _start(worker, processes)
    try:
        while True:
            for batch in islice(batches, _AHEAD * processes - len(waiting)):
                waiting.append((batch, pool.submit(_run, batch)))
            if not waiting:
                return
            try:
                outcomes = waiting[0][1].result()
                waiting.popleft()
            except BrokenProcessPool:
                # Whose fault it was is not known: what was not done is done one by one, each in a process of its own.
                pool.shutdown(wait=True)
                broken = list(waiting)
                waiting.clear()
                for batch, future in broken:
                    done = not future.exception()
                    yield from future.result() if done else (_alone(worker, task) for task in batch)
                pool = _start(worker, processes)
                continue
            yield from outcomes
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def num_processors() -> int:
    """How many processors this program may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _batches(tasks: Iterator[Task]) -> Iterator[list[Task]]:
    while batch := list(islice(tasks, 1)):
        if not batch[0].is_shard:
            batch += islice(tasks, _BATCH - 1)
        yield batch


def _start(worker: Worker, processes: int) -> ProcessPoolExecutor:
    # A process that is forked from one with threads can hang: these start anew.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(processes, mp_context=context, initializer=_begin, initargs=(worker,))


def _alone(worker: Worker, task: Task) -> Outcome:
    with _start(worker, 1) as pool:
        try:
            return pool.submit(_run, [task]).result()[0]
        except BrokenProcessPool:
            sources = [entry.source for entry in task.entries if isinstance(entry, Picture)]
            if len(sources) == 1:
                return Outcome(task.name, task.fingerprint(), [], 0, [(sources[0], _CRASHED)])
    return _without_culprits(worker, task)


def _without_culprits(worker: Worker, task: Task) -> Outcome:
    """A shard, less the images that kill the process that reads them."""
    culprits: list[tuple[str, str]] = []
    for entry in task.entries:
        if isinstance(entry, Picture):
            with _start(worker, 1) as pool:
                try:
                    pool.submit(_probe, entry.source).result()
                except BrokenProcessPool:
                    culprits.append((entry.source, _CRASHED))
    sources = {source for source, _ in culprits}
    kept = [entry for entry in task.entries if not (isinstance(entry, Picture) and entry.source in sources)]
    with _start(worker, 1) as pool:
        outcome = pool.submit(_run, [Task(task.name, tuple(kept), is_shard=True)]).result()[0]
    failures = [*culprits, *outcome.failures]
    return Outcome(task.name, task.fingerprint(), outcome.pictures, outcome.rows, failures)


def _begin(worker: Worker) -> None:
    global _worker
    _worker = worker
    settle_worker()


def settle_worker() -> None:
    """What a pool's process does first: it leaves Ctrl-C to its parent, says no warnings, and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that began, which ends these
    warnings.simplefilter("ignore")  # what a file does not do by the book; what matters is an error
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # A pool's processes hold both ends of its pipes: none of them would ever notice that a killed parent is gone.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(tasks: list[Task]) -> list[Outcome]:
    return [_worker.run(task) for task in tasks]


def _probe(source: str) -> None:
    """Read an image for its effect on this process alone."""
    worker = _worker
    worker._make(Picture(source, "probe"), Outcome("", "", [], 0, []))
