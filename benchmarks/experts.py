"""Measure whether a router reaches the scores of its experts, each on its own task, on drawn images.

    make bench-experts        after make demo

One expert answers questions by a word, the other one describes the image; tower, projector and language model are the
demo's and stay frozen. Two routers choose between them: for each token in each layer, and once for each question. The
pipeline is ``medcap/tiny/experts_pipeline``. Writes ``results/benchmarks/experts.json`` and ``experts.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from machine import describe_machine
from timed_stage import run_timed

from medcap.datasets.phantoms.scene_files import write_scenes
from medcap.datasets.rows.json_rows import read_rows
from medcap.files import write_json, write_text
from medcap.pipeline.definition import read_pipeline

PIPELINE = "medcap/tiny/experts_pipeline"
DRAWN = {"train": (4000, 300), "test": (300, 301)}  # images and seed
TASKS = ("words", "captions")  # each with an expert of its name
MODELS = {
    "words": "the expert for words",
    "captions": "the expert for captions",
    "token": "router of tokens",
    "sequence": "router of questions",
}
MOST_BELOW = 0.02


def main() -> None:
    """Draw, run the pipeline, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the tables")
    options = parser.parse_args()
    machine = describe_machine()
    pipeline = read_pipeline(PIPELINE)
    for name, (count, seed) in DRAWN.items():
        _draw(pipeline.folder / "data" / name, count, seed)
    used = {stage.name: run_timed(stage) for stage in pipeline.stages}
    found = {
        "machine": machine,
        "seconds": used,
        "scores": {name: {task: _score(pipeline.folder, name, task) for task in TASKS} for name in MODELS},
        "shares": {
            name: {task: _share(pipeline.folder, name, task) for task in TASKS} for name in ("token", "sequence")
        },
    }
    text = _page(found)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "experts.json", found)
    write_text(options.out / "experts.md", text)
    print(text)


def _draw(folder: Path, count: int, seed: int) -> None:
    """Draw scenes of one lesion."""
    write_scenes(folder, count, seed, lesions=(1,))


def _score(folder: Path, model: str, task: str) -> list[Any]:
    """Return the share of right answers and its interval."""
    metrics = json.loads((folder / f"{model}_asked_{task}" / "vqa" / "metrics.json").read_text(encoding="utf-8"))
    return [metrics["scores"]["accuracy"], metrics["intervals"].get("accuracy")]


def _share(folder: Path, model: str, task: str) -> float:
    """Return the mean share of the task's own expert in the answers."""
    rows = [row for _, row in read_rows(folder / f"{model}_asked_{task}" / "vqa" / "predictions.jsonl")]
    return sum(row["experts"][TASKS.index(task)] for row in rows) / len(rows)


def _page(found: dict[str, Any]) -> str:
    machine, scores = found["machine"], found["scores"]
    lines = [
        "# Experts and their router",
        "",
        f"Written by `benchmarks/experts.py` on {machine['processor']}, {machine['cores']} cores. 300 held-out"
        " questions a task; accuracy of the whole answer with its 95 % interval. The share is that of the task's own"
        " expert in the answers' tokens.",
        "",
        "| model | words | captions | share: words | share: captions | processor seconds of training |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, title in MODELS.items():
        cells = [_cell(scores[name][task]) for task in TASKS]
        cells += [f"{found['shares'][name][task]:.3f}" if name in found["shares"] else "-" for task in TASKS]
        lines.append(f"| {title} | {' | '.join(cells)} | {found['seconds'][name]['processor_seconds']:.0f} |")
    lines += ["", "| bar | reached |", "|---|---|"]
    for name in found["shares"]:
        for task in TASKS:
            below = scores[task][task][0] - scores[name][task][0]
            reached = "yes" if below <= MOST_BELOW else "no"
            lines.append(f"| {MODELS[name]}, {task}: at most 0.02 below the expert | {reached}, {below:+.3f} |")
    return "\n".join([*lines, ""])


def _cell(value: list[Any]) -> str:
    score, interval = value
    return f"{score:.3f}" + (f" ({interval['low']:.3f} to {interval['high']:.3f})" if interval else "")


if __name__ == "__main__":
    main()
