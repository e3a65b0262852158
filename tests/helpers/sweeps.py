"""Sweeps in tests: real managers, workers and trials, with a stand-in for ``tune`` that costs milliseconds."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAND_IN = Path(__file__).parent / "stand_in_tune"
# Checking a sweep needs the real torchtune, which the trials' processes find behind the stand-in.
START = (
    "import sys; sys.path = [path for path in sys.path if 'stand_in_tune' not in path];"
    "from medcap.cli import main; sys.exit(main(['sweep', *sys.argv[1:]]))"
)


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


def start(folder: Path, sweep: dict[str, Any], *options: str) -> subprocess.Popen[str]:
    """Start ``medcap sweep`` in a process of its own."""
    file = folder / "sweep.yaml"
    file.write_text(json.dumps(sweep), encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, "-c", START, str(file), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(STAND_IN), "OMP_NUM_THREADS": "1"},
    )


def table(output: Path) -> list[dict[str, str]]:
    """The rows of ``results.csv``."""
    with (output / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def starts(output: Path) -> dict[str, list[str]]:
    """Trial's folder -> the recipes that were started in it."""
    return {path.parent.name: path.read_text().split() for path in sorted(output.glob("trials/*/starts.txt"))}


def wait_for(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """What a condition gives as soon as that is true.

    Raises:
        TimeoutError: if it does not become true.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError("what was waited for did not come")


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
