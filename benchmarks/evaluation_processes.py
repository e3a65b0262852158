"""How much faster several processes answer a benchmark than one, each with one thread, with equal files.

    PYTHONPATH=tests python benchmarks/evaluation_processes.py

It needs the model of ``medcap demo`` and draws its own questions. The processes are started as torchrun starts them.
The time is from the first question to the joined file, without what each process needs to start and to read the model.
Written: ``results/benchmarks/evaluation_processes.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from evaluation import demo_generator, phantom_questions
from machine import describe_machine

from medcap.datasets.phantoms.benchmarks import write_phantom_benchmarks
from medcap.evaluation.answering import Engine, PredictionStore
from medcap.evaluation.prompting.direct import Direct
from medcap.evaluation.shared.team import Team
from medcap.generation.request import Sampling
from medcap.processes import Processes, join_processes

MAX_NEW_TOKENS = 64
_ANSWERS = "predictions.jsonl"


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("results/demo"), help="folder of medcap demo (results/demo)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the table goes")
    parser.add_argument("--images", type=int, default=2000, help="images, three questions each (2000)")
    parser.add_argument("--processes", type=int, default=2, help="how many processes are compared with one (2)")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved repeats (3)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)  # folder of a process that this program started
    options = parser.parse_args()
    if options.worker is not None:
        work(options, options.worker)
        return
    report = measure(options)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "evaluation_processes.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name in ("questions_per_second", "processor_seconds", "ratio", "ratio_by_processor_seconds"):
        print(f"{name}: {json.dumps(report[name])}")
    print(path)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run one process and several in turn, and compare their files.

    Args:
        options: of the command line.

    Returns:
        Questions a second of every repeat, and the ratio within each.
    """
    rates: dict[int, list[float]] = {1: [], options.processes: []}
    cpu: dict[int, list[float]] = {1: [], options.processes: []}
    with tempfile.TemporaryDirectory() as folder:
        write_phantom_benchmarks(Path(folder, "data"), options.images, seed=1)
        for repeat in range(options.repeats):
            for size in rates:
                out = Path(folder, f"{size}-{repeat}")
                seconds, used = run(options, out, size)
                rates[size].append(3 * options.images / seconds)
                cpu[size].append(used)
        files = {path.read_bytes() for path in Path(folder).glob(f"*-*/{_ANSWERS}")}
    assert len(files) == 1, "the files differ"
    ratios = [many / one for one, many in zip(*rates.values(), strict=True)]
    # What the ratio would be if each process had a processor to itself.
    free = [options.processes * one / many for one, many in zip(*cpu.values(), strict=True)]
    return {
        "machine": describe_machine(),
        "batch_size": options.batch_size,
        "questions": 3 * options.images,
        "threads_of_a_process": 1,
        "questions_per_second": rates,
        "processor_seconds": cpu,
        "ratio": {"median": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios)},
        "ratio_by_processor_seconds": {"median": statistics.median(free), "lowest": min(free), "highest": max(free)},
    }


def run(options: argparse.Namespace, out: Path, size: int) -> tuple[float, float]:
    """Start processes as torchrun does, and wait for them.

    Args:
        options: of the command line.
        out: folder of the answers.
        size: how many processes.

    Returns:
        Seconds of the slowest process, and the processor's seconds of all.
    """
    out.mkdir()
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    words = [sys.executable, __file__, *sys.argv[1:], "--worker", str(out)]
    processes = [
        subprocess.Popen(words, env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)}) for rank in range(size)
    ]
    assert [process.wait() for process in processes] == [0] * size, "a process failed"
    times = [json.loads((out / f"times-{rank}.json").read_text()) for rank in range(size)]
    return max(time["wall"] for time in times), sum(time["processor"] for time in times)


def work(options: argparse.Namespace, out: Path) -> None:
    """Be one of the processes.

    Args:
        options: of the command line.
        out: folder of the answers.
    """
    processes = join_processes("cpu")
    data = out.parent / "data"
    rows = phantom_questions(data, options.images)
    engine = Engine(demo_generator(options.demo, data, options.batch_size), Sampling(max_new_tokens=MAX_NEW_TOKENS))
    team = Team(processes, batch=options.batch_size) if processes.size > 1 else None
    _meet(processes)
    wall, processor = time.perf_counter(), time.process_time()
    Direct().ask(rows, engine, PredictionStore(out, {}, team=team))
    times = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
    (out / f"times-{processes.rank}.json").write_text(json.dumps(times))
    if team is not None:
        team.finish()


def _meet(processes: Processes) -> None:
    """Wait until all processes are ready."""
    if processes.store is not None:
        processes.store.add("ready", 1)
        while processes.store.add("ready", 0) < processes.size:
            time.sleep(0.01)


if __name__ == "__main__":
    main()
