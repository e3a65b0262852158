"""The length of every sample before an epoch begins, counted once and kept; the tokens are not."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
from collections.abc import Callable, Generator
from functools import partial

import numpy as np
from tqdm import tqdm

from medcap.data.packing import Sample, SampleTable, sharing
from medcap.data.storage.cache import cache_folder, load_entry, store_entry
from medcap.errors import UserError
from medcap.workers import num_processors, ordered_map

_FORMAT = 3
_CHUNK = 1000  # rows
_WORTH_PROCESSES = 5000  # rows; below, starting processes takes longer
_KEPT_BAD_FRACTION = 0.01

_Chunk = tuple[np.ndarray, np.ndarray, np.ndarray, dict[int, str]]


def count_tokens(
    sample: Callable[[int], Sample], num_rows: int, key: str, num_processes: int | None = None
) -> tuple[SampleTable, dict[int, str]]:
    """Make every sample once and note what planning needs to know of it.

    The table is kept in the cache. Rows that could not be used are tried again each time, because what was wrong may
    have been fixed outside the data file, such as an image that was missing.

    Args:
        sample: row number -> the row's sample; a ``UserError`` says that the row cannot be used. Where processes
            cannot be forked it must be picklable.
        num_rows: rows are 0 to ``num_rows - 1``.
        key: everything that decides what ``sample`` returns, such as the file's fingerprint and the tokenizer's.
        num_processes: workers; by default one for each core that this process may use. The result is the same
            with any number.

    Returns:
        The table, and the reason for each row that cannot be used, in the order of the rows.

    Raises:
        UserError: if a worker process dies.
    """
    # A file name in the key need not be text.
    name = hashlib.sha256(f"{_FORMAT} {num_rows} {key}".encode("utf-8", "surrogatepass")).hexdigest()
    folder = cache_folder() / "tokens" / name
    entry = load_entry(folder)
    if entry is not None:
        return _mend(SampleTable(**entry.arrays), sample, num_processes)
    table, bad = _count(sample, np.arange(num_rows), num_processes)
    if num_rows and len(bad) <= num_rows * _KEPT_BAD_FRACTION:
        arrays = {"lengths": table.lengths, "prefixes": table.prefixes, "groups": table.groups}
        table = SampleTable(**store_entry(folder, arrays, {}).arrays)
    return table, bad


def _mend(
    table: SampleTable, sample: Callable[[int], Sample], num_processes: int | None
) -> tuple[SampleTable, dict[int, str]]:
    unusable = np.flatnonzero(table.lengths == 0)
    if not len(unusable):
        return table, {}
    again, bad = _count(sample, unusable, num_processes)
    if len(bad) == len(unusable):
        return table, bad
    lengths, prefixes, groups = table.lengths.copy(), table.prefixes.copy(), table.groups.copy()
    lengths[unusable], prefixes[unusable], groups[unusable] = again.lengths, again.prefixes, again.groups
    return SampleTable(lengths, prefixes, groups), bad


def _count(
    sample: Callable[[int], Sample], rows: np.ndarray, num_processes: int | None
) -> tuple[SampleTable, dict[int, str]]:
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    workers = min(num_processes or num_processors(), len(chunks))
    if len(rows) < _WORTH_PROCESSES or multiprocessing.current_process().daemon:
        workers = 1  # a daemonic process, such as a data loader's worker, may not have children
    table = SampleTable(
        np.empty(len(rows), dtype=np.int32), np.empty(len(rows), dtype=np.int32), np.empty(len(rows), dtype=np.int64)
    )
    bad: dict[int, str] = {}
    done = 0
    counted: Generator[list[_Chunk]] = ([_count_chunk(sample, chunk)] for chunk in chunks)
    if workers > 1:
        # Forked, the processes have the tokenizer and the index of the rows already.
        counted = ordered_map(
            partial(_count_chunk, sample), ([chunk] for chunk in chunks), workers, _stop_at_crash, fork=True
        )
    with (
        contextlib.closing(counted),
        tqdm(total=len(rows), desc="counting tokens", unit="row", delay=3, mininterval=1, disable=None) as progress,
    ):
        for ((lengths, prefixes, groups, reasons),) in counted:
            position = slice(done, done + len(lengths))
            table.lengths[position], table.prefixes[position], table.groups[position] = lengths, prefixes, groups
            bad.update(reasons)
            done += len(lengths)
            progress.update(len(lengths))
    return table, bad


def _stop_at_crash(rows: np.ndarray) -> _Chunk:
    raise UserError(
        "a process that counted tokens died, often because memory ran out: start again with more memory, or with"
        " fewer processes"
    )


def _count_chunk(sample: Callable[[int], Sample], rows: np.ndarray) -> _Chunk:
    counts = np.zeros((3, len(rows)), dtype=np.int64)
    bad = {}
    for position, row in enumerate(rows.tolist()):
        try:
            made = sample(row)
        except UserError as error:
            bad[row] = str(error)
            continue
        counts[:, position] = (len(made.tokens), *sharing(made))
    return counts[0].astype(np.int32), counts[1].astype(np.int32), counts[2], bad
