"""Rows over several processes, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
from tqdm import tqdm

from medcap.workers import batched, ordered_map

Result = TypeVar("Result")

_BATCH = 64  # rows


def over_rows(
    work: Callable[[int], Result],
    rows: np.ndarray,
    processes: int,
    label: str,
    crashed: Callable[[int], Result],
) -> Iterator[Result]:
    """Do something with every row in several processes.

    Args:
        work: row number -> result, which must be picklable. Where processes cannot be forked, so must it be.
        rows: ``[n]`` int64 row numbers.
        processes: how many.
        label: what the progress bar says.
        crashed: the result for a row that ended the process that worked on it.

    Yields:
        The results, in the order of ``rows``.
    """
    with tqdm(total=len(rows), desc=label, unit="row", delay=1, mininterval=1, disable=None) as progress:
        # Forked, the processes have the tokenizer and the index of the rows already.
        for results in ordered_map(work, batched(rows.tolist(), _BATCH), processes, crashed, fork=True):
            yield from results
            progress.update(len(results))
