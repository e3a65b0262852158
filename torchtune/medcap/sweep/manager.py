"""A sweep on one machine: checks everything, keeps the workers running, writes the table while they work."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from tqdm import tqdm

from medcap.errors import UserError
from medcap.locks import hold
from medcap.sweep.definition import Definition, read_definition
from medcap.workers import num_processors

POLL_SECONDS = 1.0
TABLE, PAGE = "results.csv", "report.html"
ENDED = ("complete", "pruned", "failed")
# Limit restarts: such a worker would crash again.
MOST_STARTS = 5


def run_sweep(
    sweep: str | Path | Mapping[str, Any], workers: int | None, resume: bool, retry_failed: bool
) -> list[dict[str, Any]]:
    """See :func:`medcap.sweep.run`."""
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError("a sweep needs Optuna: pip install 'medcap[sweep]'") from error
    from medcap.sweep.checking import check_runs
    from medcap.sweep.study import Study

    definition = read_definition(sweep)
    check_runs(definition)
    environments = worker_environments(workers or definition.workers, definition.processes_per_trial)
    try:
        definition.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output_dir={definition.output_dir} cannot be made: {error.strerror}") from error
    study = Study(definition, create=not resume)
    if retry_failed:
        study.retry_failed()
    return Manager(study, environments).run()


class Manager:
    """Keeps one worker for each environment running until nothing is left to claim.

    Args:
        study: study of the sweep.
        environments: environments of the workers.
    """

    def __init__(self, study: Any, environments: Sequence[dict[str, str]]) -> None:
        self._study, self._environments = study, environments
        self._definition: Definition = study.definition
        self._processes: dict[int, subprocess.Popen[str]] = {}
        self._starts: Counter[int] = Counter()
        self._signal: int | None = None
        self._shown: list[dict[str, Any]] | None = None

    def run(self) -> list[dict[str, Any]]:
        """Run to the end.

        Returns:
            The rows of the table.
        """
        self._say(
            f"trials: {self._definition.trials}, side by side: {len(self._environments)}, in {self._definition.folder}"
        )
        with self._signals(), tqdm(total=self._definition.trials, unit="trial", disable=not sys.stderr.isatty()) as bar:
            self._update(bar)
            while self._keep_running():
                time.sleep(POLL_SECONDS)
                self._update(bar)
            rows = self._update(bar, last=True)
        if self._signal is not None:
            self._say("stopped; the same command goes on with what is left")
            if self._signal == signal.SIGINT:
                raise KeyboardInterrupt
            sys.exit(128 + self._signal)
        self._summary(rows)
        return rows

    def _keep_running(self) -> bool:
        """Start workers where there is work; whether any of them runs."""
        for slot, process in list(self._processes.items()):
            status = process.poll()
            if status is not None:
                del self._processes[slot]
                if status and self._signal is None:
                    self._say(f"worker {slot} ended with status {status}")
                else:
                    self._starts[slot] = 0
        idle = [slot for slot in range(len(self._environments)) if slot not in self._processes]
        if self._signal is None and idle and self._study.is_waiting():
            for slot in idle:
                if self._starts[slot] < MOST_STARTS:
                    self._starts[slot] += 1
                    self._processes[slot] = self._start(slot)
        return bool(self._processes)

    def _start(self, slot: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "medcap.sweep.worker"],
            stdin=subprocess.PIPE,
            text=True,
            env={**os.environ, **self._environments[slot]},
            # The terminal's Ctrl-C reaches the manager, which asks the workers.
            start_new_session=True,
        )
        job = {
            "definition": self._definition.as_dict(),
            "name": f"{socket.gethostname()}/{slot}",
            "environment": self._environments[slot],
        }
        # Through a pipe and not a file, because a storage's URL may hold a password.
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            json.dump(job, pipe)
        return process

    @contextlib.contextmanager
    def _signals(self) -> Generator[None]:
        def handle(number: int, frame: FrameType | None) -> None:
            if self._signal is None:
                self._say(f"{signal.Signals(number).name}: the trials save and end; the sweep can be gone on with")
            self._signal = number
            for process in list(self._processes.values()):
                process.terminate()

        before = {}
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                with contextlib.suppress(ValueError):  # not in the main thread
                    before[number] = signal.signal(number, handle)
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            for process in self._processes.values():
                process.terminate()

    def _update(self, bar: tqdm[Any], last: bool = False) -> list[dict[str, Any]]:
        from medcap.sweep.table import results

        rows = results(self._study)
        if rows != self._shown or last:
            for before, row in zip(self._shown or rows, rows, strict=True):
                if row["state"] != before["state"] and row["state"] in ENDED:
                    bar.write(_line(row, self._definition), file=sys.stderr)
            bar.update(sum(row["state"] in ENDED for row in rows) - bar.n)
            self._shown = rows
            try:
                self._write(rows, last)
            except (OSError, UserError) as error:
                line = f"{TABLE} and {PAGE} in {self._definition.folder} cannot be written: {error}"
                if last:
                    raise UserError(f"{line}; make room, then start the same command again") from error
                # A full disk may have room again later; the trials continue.
                self._say(line)
        return rows

    def _write(self, rows: Sequence[dict[str, Any]], wait: bool) -> None:
        from medcap.sweep.page import write_page
        from medcap.sweep.table import write_table

        # Another machine that writes them at this moment knows the same.
        lock = hold(self._definition.folder / "locks" / "table", wait)
        if lock is not None:
            with lock:
                write_table(self._definition.folder / TABLE, self._definition, rows)
                write_page(self._definition.folder / PAGE, self._definition, rows, self._study.attempts())

    def _summary(self, rows: Sequence[dict[str, Any]]) -> None:
        from medcap.sweep.table import best

        counts = Counter(row["state"] for row in rows)
        print(", ".join(f"{count} {state}" for state, count in counts.items()))
        winner = best(self._definition, rows)
        if winner is not None:
            print("best: " + _line(winner, self._definition))
            print(f"      {self._definition.folder / winner['folder']}")
        print(f"table: {self._definition.folder / TABLE}\npage:  {self._definition.folder / PAGE}")
        if counts["running"]:
            print(f"{counts['running']} trials run on other machines; the last one to end writes the whole table")
        if counts["waiting"]:
            raise UserError(f"{counts['waiting']} trials were not run: the workers ended, see their messages above")
        if counts["failed"] == len(rows):
            raise UserError(f"every trial failed; the first: {rows[0]['reason']}")

    @staticmethod
    def _say(text: str) -> None:
        tqdm.write(text, file=sys.stderr)


def worker_environments(workers: int | None, processes: int) -> list[dict[str, str]]:
    """Return the environment of each worker's trials: their own GPUs, and a share of the cores.

    Args:
        workers: how many, None for as many as the GPUs are enough for, and one without GPUs.
        processes: GPUs of a trial.

    Returns:
        For each worker, ``CUDA_VISIBLE_DEVICES`` where there are GPUs, and ``OMP_NUM_THREADS`` unless that is set.

    Raises:
        UserError: if there are too few GPUs.
    """
    devices = visible_devices()
    if workers is None:
        workers = max(1, len(devices) // processes)
    if devices and workers * processes > len(devices):
        raise UserError(
            f"{workers} workers of {processes} processes need {workers * processes} GPUs, there are {len(devices)}:"
            " give fewer workers, or set CUDA_VISIBLE_DEVICES= to use the CPU"
        )
    found = []
    for slot in range(workers):
        environment = {}
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(devices[slot * processes : (slot + 1) * processes])
        if "OMP_NUM_THREADS" not in os.environ:
            environment["OMP_NUM_THREADS"] = str(max(1, num_processors() // (workers * processes)))
        found.append(environment)
    return found


def visible_devices() -> list[str]:
    """GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them."""
    import torch

    count = torch.cuda.device_count()
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named[:count] if named else [str(index) for index in range(count)]


def _line(row: Mapping[str, Any], definition: Definition) -> str:
    value = "" if row["value"] is None else f" {definition.objective.metric} {row['value']:.6g}"
    reason = f" ({row['reason']})" if row["reason"] else ""
    tried = " ".join(f"{key}={row[key]}" for key in definition.keys)
    return f"trial {row['trial']} {row['state']}{value}: {tried}{reason}"
