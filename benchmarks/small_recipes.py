"""The recipes one after another on a model of two layers: trained in each way, resumed, asked, and served.

    PYTHONPATH=tests python benchmarks/small_recipes.py

It is less about speed than that each of them runs where it is run. Written:
``results/benchmarks/small_recipes.{json,md}``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine

from helpers.live_answers import answers_of
from helpers.workspace import Workspace, log
from medcap.files import write_json, write_text
from medcap.generation.continuous_batching import LiveGenerator
from medcap.generation.prompt import question_request
from medcap.generation.request import Sampling
from medcap.generation.run import open_run

# FlexAttention takes heads of 16 numbers and more.
WIDE_HEADS = {"num_heads": 2, "num_kv_heads": 1}


def main() -> int:
    """Run all of it; the status is 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the table goes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [_tried(name, step) for name, step in steps(Workspace(Path(folder), **WIDE_HEADS), options.device)]
    report = {"machine": describe_machine(), "device": options.device, "steps": rows}
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "small_recipes.json", report)
    write_text(options.out / "small_recipes.md", table(report))
    print(table(report))
    return int(any(row["error"] for row in rows))


def steps(workspace: Workspace, device: str) -> list[tuple[str, Callable[[], dict[str, Any]]]]:
    """Return what is run, in order; later steps use the runs of earlier ones."""
    shared = (f"device={device}", "epochs=2", "dtype=bf16" if device == "cuda" else "dtype=fp32")
    packed = ("dataset.packed=true", "compile=false")

    def train(output: str, *overrides: str) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            rows = log(workspace.train(*shared, *overrides, output=output))
            return {"steps": len(rows), "first_loss": rows[0]["loss"], "last_loss": rows[-1]["loss"]}

        return run

    def resume() -> dict[str, Any]:
        first = min((workspace.folder / "packed/checkpoint").glob("step_*"))
        rows = log(workspace.train(*shared, *packed, f"resume_from_checkpoint={first}", output="resumed"))
        expected = log(workspace.folder / "packed")
        return {"steps": len(rows), "last_loss": rows[-1]["loss"], "unbroken_last_loss": expected[-1]["loss"]}

    def serve() -> dict[str, Any]:
        run = workspace.folder / "packed"
        generator = open_run(run, [f"device={device}"])
        request = question_request(str(workspace.folder / "images/0.png"), "What is shown?", id="one")
        live = LiveGenerator([generator], max_rows=2, capacity=128)
        try:
            (answer,) = answers_of(live, [request], [Sampling(max_new_tokens=8)], patience=300)
        finally:
            live.close()
        return {"tokens": len(answer.tokens), "finish": answer.finish}

    ways: list[tuple[str, Callable[[], dict[str, Any]]]] = [
        ("packed", train("packed", *packed)),
        ("unpacked", train("unpacked", "dataset.packed=false", "compile=false")),
    ]
    if device == "cuda":
        ways += [("packed, compiled", train("compiled", "dataset.packed=true", "compile=true"))]
        ways += [("fp8, compiled", train("fp8", "dataset.packed=true", "compile=true", "llm_weights=fp8"))]
    return [*ways, ("resumed", resume), ("served", serve)]


def _tried(name: str, step: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    began = time.perf_counter()
    found: dict[str, Any] = {}
    error = ""
    try:
        found = step()
    except (Exception, SystemExit) as failure:  # the next one is tried all the same
        error = f"{type(failure).__name__}: {failure}"[:300]
        print(f"{name}: {error}", file=sys.stderr)
    return {"name": name, "seconds": round(time.perf_counter() - began, 2), "error": error, "found": found}


def table(report: dict[str, Any]) -> str:
    """Return the report as markdown."""
    machine = report["machine"]
    lines = [
        "# Recipes on a model of two layers",
        "",
        f"{machine['processor']}, torch {machine['torch']}, `device={report['device']}`. Made by"
        " `benchmarks/small_recipes.py`.",
        "",
        "| | seconds | found |",
        "|---|---:|---|",
    ]
    for row in report["steps"]:
        found = row["error"] or json.dumps(row["found"])[1:-1].replace('"', "")
        lines.append(f"| {row['name']} | {row['seconds']:.1f} | {found.replace('|', '/')} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.exit(main())
