"""Sweeps and pipelines in tests: real processes, with a stand-in for ``tune`` that costs milliseconds."""

from __future__ import annotations

import csv
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import medcap.recipes.full_finetune_single_device
import medcap.recipes.generate  # noqa: F401
from helpers.waiting import wait_for
from medcap.cli import main
from medcap.sweep import checking, manager  # noqa: F401

STAND_IN = Path(__file__).parent / "stand_in_tune"


def definition(folder: Path, **changes: Any) -> dict[str, Any]:
    """A sweep over the stand-in's ``seed``, which is the value it comes to."""
    return {
        "output_dir": str(folder),
        "config": "medcap/tiny/single_device",
        "overrides": {"epochs": 4, "batch_size": 5, "validation_source": "held_out.json", "eval_every_n_steps": 1},
        "grid": {"seed": [3, 1, 2]},
        "objective": {"direction": "minimize"},
        **changes,
    }


class Running:
    """``medcap sweep`` or ``medcap run`` in a process of its own, forked so that it need not import torch again.

    Args:
        folder: folder for what it prints.
        content: the definition.
        options: options of the command.
        command: the command.
    """

    def __init__(self, folder: Path, content: dict[str, Any], *options: str, command: str = "sweep") -> None:
        file = folder / f"{command}.yaml"
        file.write_text(json.dumps(content), encoding="utf-8")
        self.pid = os.fork()
        self._printed = [folder / f"{self.pid or os.getpid()}.{name}" for name in ("out", "err")]
        if self.pid == 0:
            try:
                self._become([command, str(file), *options])
            finally:
                os._exit(1)

    def _become(self, words: list[str]) -> None:
        for number, path in enumerate(self._printed, start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
        sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1) for number in (1, 2))
        os.environ |= {"PYTHONPATH": str(STAND_IN), "OMP_NUM_THREADS": "1"}
        manager.POLL_SECONDS = 0.1
        try:
            status = main(words)
        except SystemExit as end:
            status = end.code
        sys.stdout.flush()
        os._exit(status)

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def wait(self) -> tuple[int, str, str]:
        """Wait for its end: status, standard output, standard error."""
        _, status = wait_for(lambda: (ended := os.waitpid(self.pid, os.WNOHANG))[0] and ended)
        printed, messages = (path.read_text(encoding="utf-8") for path in self._printed)
        return os.waitstatus_to_exitcode(status), printed, messages


def table(output: Path) -> list[dict[str, str]]:
    """The rows of ``results.csv``."""
    with (output / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def starts(output: Path) -> dict[str, list[str]]:
    """Trial's folder -> the recipes that were started in it."""
    return {path.parent.name: path.read_text().split() for path in sorted(output.rglob("starts.txt"))}


def waiting_trial(manager: int, output: Path) -> tuple[int, int]:
    """Wait until the first trial, with seed 93, waits after step 2: its worker and its process."""
    checkpoint = output / "trials" / "0000" / "checkpoint.json"
    wait_for(lambda: checkpoint.exists() and checkpoint.read_text() == "2")
    for worker in children(manager, "medcap.sweep.worker"):
        for trial in children(worker, "trials/0000"):
            return worker, trial
    raise AssertionError("no worker has the trial that waits")


def children(pid: int, word: str) -> list[int]:
    """Running children of a process whose command line has a word in it."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                parent = int(Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid and word in Path("/proc", name, "cmdline").read_text():
                    found.append(int(name))
            except (OSError, ValueError):
                continue
    return found


def kill(pid: int) -> None:
    """SIGKILL one process."""
    os.kill(pid, signal.SIGKILL)
