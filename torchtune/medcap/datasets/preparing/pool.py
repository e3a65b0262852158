"""Prepare images in several processes; an image that kills its process fails without the others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import islice

from medcap.datasets.preparing.tasks import Picture, Task
from medcap.datasets.preparing.worker import Outcome, Worker
from medcap.workers import ordered_map

_BATCH = 8  # picture files; a shard is one batch
_CRASHED = "its decoder ended the process that read it (damaged file, or memory ran out)"


def run_tasks(worker: Worker, tasks: Iterable[Task], processes: int) -> Iterator[Outcome]:
    """Do tasks in several processes.

    Args:
        worker: does a task.
        tasks: tasks in their order.
        processes: how many; 0 does them in this one.

    Yields:
        The outcome of each task, in their order.

    Raises:
        UserError: if something cannot be written.
    """
    if not processes:
        yield from map(worker.run, tasks)
        return
    for outcomes in ordered_map(worker.run, _batches(iter(tasks)), processes, partial(_without_culprits, worker)):
        yield from outcomes


def _batches(tasks: Iterator[Task]) -> Iterator[list[Task]]:
    while batch := list(islice(tasks, 1)):
        if not batch[0].is_shard:
            batch += islice(tasks, _BATCH - 1)
        yield batch


def _without_culprits(worker: Worker, task: Task) -> Outcome:
    """Repeat a task that killed its process, without the images that do so."""
    pictures = [entry for entry in task.entries if isinstance(entry, Picture)]
    if len(pictures) == 1:
        return Outcome(task.name, task.fingerprint(), [], 0, [(pictures[0].source, _CRASHED)])
    sources = dict.fromkeys(picture.source for picture in pictures)
    survived = ordered_map(worker.survives, ([source] for source in sources), 1, lambda source: False)
    culprits = {source for source, (alive,) in zip(sources, survived, strict=True) if not alive}
    kept = [entry for entry in task.entries if not (isinstance(entry, Picture) and entry.source in culprits)]
    outcome = worker.run(Task(task.name, tuple(kept), is_shard=True))
    failures = [*((source, _CRASHED) for source in culprits), *outcome.failures]
    return Outcome(task.name, task.fingerprint(), outcome.pictures, outcome.rows, failures)
