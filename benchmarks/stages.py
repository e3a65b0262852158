"""Measure what training in stages and the choice of trained parts gain, on held-out questions about drawn images.

    make bench-stages        after make demo

Each question is asked with its own image, with another image and with no image. The pipelines are
``medcap/tiny/curriculum_pipeline`` and ``medcap/tiny/what_trains_pipeline``; stages that are done are not run again.
Writes ``results/benchmarks/stages.json`` and ``stages.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from machine import describe_machine

from medcap.files import write_json, write_text
from medcap.pipeline.definition import read_pipeline
from medcap.pipeline.run import run_pipeline

CURRICULUM = {
    "ask_align": "stage 1: projector, on captions",
    "ask_instruct": "stage 2: projector and adapters, on questions",
    "ask_without_adapters": "stage 2, without its adapters",
}
PARTS = {"ask_projector": "projector", "ask_vision": "projector and tower", "ask_adapters": "projector and adapters"}
CONTROLS = ("shuffled_image", "no_image")


def main() -> None:
    """Run both pipelines, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the tables")
    options = parser.parse_args()
    machine = describe_machine()
    found: dict[str, Any] = {"machine": machine}
    text = ["# Stages and trained parts, on drawn images", ""]
    where = f"{machine['processor']}, {machine['cores']} cores"
    text += [f"Written by `benchmarks/stages.py` on {where}. Accuracy with its 95 % interval.", ""]
    for name, rows in (("curriculum_pipeline", CURRICULUM), ("what_trains_pipeline", PARTS)):
        pipeline = read_pipeline(f"medcap/tiny/{name}")
        seconds = run_pipeline(f"medcap/tiny/{name}")
        scores = {stage: _scores(pipeline.folder / stage / "vqa" / "metrics.json") for stage in rows}
        found[name] = {"seconds": seconds, "scores": scores}
        text += [
            f"## {name.replace('_', ' ')}",
            "",
            "| | its image | another image | no image |",
            "|---|---:|---:|---:|",
        ]
        text += [_row(title, scores[stage]) for stage, title in rows.items()]
        trained = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
        text += ["", f"{next(iter(scores.values()))['n']} questions. Time: {trained}.", ""]
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "stages.json", found)
    write_text(options.out / "stages.md", "\n".join(text))
    print("\n".join(text))


def _scores(path: Path) -> dict[str, Any]:
    metrics = json.loads(path.read_text(encoding="utf-8"))
    found = {"n": metrics["n"], "image": [metrics["scores"]["accuracy"], metrics["intervals"]["accuracy"]]}
    for control in CONTROLS:
        values = metrics["controls"][control]
        found[control] = [values["scores"]["accuracy"], values["intervals"]["accuracy"]]
    return found


def _row(title: str, scores: dict[str, Any]) -> str:
    cells = [scores[key] for key in ("image", *CONTROLS)]
    shown = [f"{value:.3f} ({interval['low']:.3f} to {interval['high']:.3f})" for value, interval in cells]
    return f"| {title} | {' | '.join(shown)} |"


if __name__ == "__main__":
    main()
