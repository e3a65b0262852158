"""How long programs take to start: medcap's paths beside what they cannot be faster than, and what others import.

    make bench-startup

Each path is a process of its own, started in turn with the others, with bytecode and files in memory from a first round
that is not counted. Written: ``results/benchmarks/startup.json`` and ``startup.md``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from machine import describe_machine

from helpers.workspace import Workspace, run_arguments

MEDCAP = "from medcap.cli import main; main()"
TUNE = "from torchtune._cli.tune import main; main()"
# What stands in the table -> a program that does nothing but import.
IMPORTS = {
    "Python alone": "pass",
    "`import torch`": "import torch",
    "`import torchtune`": "import torchtune",
    "`tune`, its imports": "import torchtune._cli.tune",
    "`tune` and torchtune's own recipe, their imports": (
        "import runpy, torchtune._cli.tune; from torchtune._cli.run import ROOT;"
        "runpy.run_path(str(ROOT / 'recipes' / 'full_finetune_single_device.py'), run_name='imports')"
    ),
    "`from transformers import LlavaForConditionalGeneration, Trainer`": (
        "from transformers import LlavaForConditionalGeneration, Trainer"
    ),
}
FIRST_STEP = "`tune run` training, to the end of the first step"
WHOLE_RUN = "`tune run` training, two steps and a checkpoint, to the end of the process"
WRONG_KEY = "`tune run` with a wrong key, to its error"


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the table goes")
    parser.add_argument("--repeats", type=int, default=7, help="starts of each path, in turn (7)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(Path(folder), options.repeats)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "startup.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (options.out / "startup.md").write_text(_table(report), encoding="utf-8")
    print(_table(report))


def measure(folder: Path, repeats: int) -> dict[str, Any]:
    """Start every path in turn.

    Args:
        folder: for a small language model, data and what the runs write.
        repeats: how often.

    Returns:
        Seconds of every start, and what they ran on.
    """
    (folder / "workspace").mkdir()
    workspace = Workspace(folder / "workspace")
    programs = Programs(folder)
    paths: dict[str, Callable[[], dict[str, float]]] = {
        name: lambda name=name, code=code: {name: programs.time_imports(code)} for name, code in IMPORTS.items()
    }
    paths["`medcap ls`"] = lambda: {"`medcap ls`": programs.time(MEDCAP, "ls")}
    paths["`medcap --help`"] = lambda: {"`medcap --help`": programs.time(MEDCAP, "--help")}
    wrong = run_arguments(*workspace.training("batchsize=4"))
    paths[WRONG_KEY] = lambda: {WRONG_KEY: programs.time(TUNE, *wrong, status=2)}
    paths[FIRST_STEP] = lambda: programs.time_training(workspace)
    seconds: dict[str, list[float]] = {}
    for repeat in range(repeats + 1):
        for run in paths.values():
            for name, value in run().items():
                if repeat:
                    seconds.setdefault(name, []).append(value)
    versions = {name: version(name) for name in ("torchtune", "torchao", "transformers")}
    return {"machine": {**describe_machine(), **versions}, "seconds": seconds}


class Programs:
    """Starts Python programs as a user's shell would.

    Args:
        folder: working directory; bytecode is kept below it, so that it does not matter what is compiled already.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        left_out = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")
        self.environment = {name: value for name, value in os.environ.items() if name not in left_out}
        self.environment["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")

    def start(self, code: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program."""
        return subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def time_imports(self, code: str) -> float:
        """Seconds from the start of a program that only imports until it has, without its end."""
        started = time.perf_counter()
        process = self.start(f"{code}; print('imported', flush=True)")
        assert process.stdout is not None
        while process.stdout.readline() not in (b"imported\n", b""):
            pass
        seconds = time.perf_counter() - started
        process.communicate()
        assert process.returncode == 0, f"{code} ended with status {process.returncode}"
        return seconds

    def time(self, code: str, *arguments: str, status: int = 0) -> float:
        """Seconds from the start of a program to its end, which must be with this status."""
        started = time.perf_counter()
        process = self.start(code, *arguments)
        process.communicate()
        seconds = time.perf_counter() - started
        assert process.returncode == status, f"{arguments} ended with status {process.returncode}"
        return seconds

    def time_training(self, workspace: Workspace) -> dict[str, float]:
        """Seconds from the start of a training run to the first row of its log, and to its end."""
        output = workspace.folder / "run"
        shutil.rmtree(output, ignore_errors=True)
        log = output / "log" / "metrics.jsonl"
        started = time.perf_counter()
        process = self.start(TUNE, *run_arguments(*workspace.training()))
        while process.poll() is None and not (log.is_file() and log.stat().st_size):
            time.sleep(0.002)
        first_step = time.perf_counter() - started
        process.communicate()
        assert process.returncode == 0, "the training run failed"
        return {FIRST_STEP: first_step, WHOLE_RUN: time.perf_counter() - started}


def _table(report: dict[str, Any]) -> str:
    machine, seconds = report["machine"], report["seconds"]
    ours = [ours - tune for ours, tune in zip(seconds[FIRST_STEP], seconds["`tune`, its imports"], strict=True)]
    lines = [
        "# Start-up",
        "",
        "Seconds from the start of a process: imports until they are done, medcap's commands to the end of the process,"
        f" training as it says. A small Llama and 13 records, files and bytecode in memory, {len(ours)} interleaved"
        " repeats.",
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, torchtune {machine['torchtune']},"
        f" torchao {machine['torchao']}, transformers {machine['transformers']}, Python {machine['python']}.",
        "Made by `make bench-startup`.",
        "",
        "| seconds | median | lowest | highest |",
        "|---|---:|---:|---:|",
    ]
    for name, values in seconds.items():
        lines.append(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")
    lines += [
        "",
        f"Of the time to the first step, {statistics.median(ours):.2f} s ({min(ours):.2f} to {max(ours):.2f}) are"
        " medcap's: what it takes longer than the imports of `tune`, which come first in any recipe.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
