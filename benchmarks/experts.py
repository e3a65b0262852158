"""Measure whether a router reaches the scores of its experts, each on its own task, on drawn images with two lesions.

    make bench-experts        after make bench-masks

One expert answers questions by words, the other one by a mask; tower, projector, mask decoder and language model are
those of ``make bench-masks`` and stay frozen. Two routers choose between them: for each token in each layer, and once
for each question. The pipeline is ``medcap/tiny/experts_pipeline``. Writes ``results/benchmarks/experts.json`` and
``experts.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from machine import describe_machine
from timed_stage import run_timed

from medcap.datasets.rows.json_rows import read_rows
from medcap.files import write_json, write_text
from medcap.pipeline.definition import read_pipeline

PIPELINE = "medcap/tiny/experts_pipeline"
# Each task has an expert of its name: the task's folder and its score.
TASKS = {"words": ("vqa", "accuracy"), "masks": ("pixel_grounding", "mean_dice")}
MODELS = {
    "words": "the expert for words",
    "masks": "the expert for masks",
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


def _score(folder: Path, model: str, task: str) -> list[Any]:
    """Return a score and its interval."""
    name, score = TASKS[task]
    metrics = json.loads((folder / f"{model}_asked_{task}" / name / "metrics.json").read_text(encoding="utf-8"))
    return [metrics["scores"][score], metrics["intervals"].get(score)]


def _share(folder: Path, model: str, task: str) -> float:
    """Return the mean share of the task's own expert in the answers."""
    rows = [row for _, row in read_rows(folder / f"{model}_asked_{task}" / TASKS[task][0] / "predictions.jsonl")]
    return sum(row["experts"][list(TASKS).index(task)] for row in rows) / len(rows)


def _page(found: dict[str, Any]) -> str:
    machine, scores = found["machine"], found["scores"]
    lines = [
        "# Experts and their router",
        "",
        f"Written by `benchmarks/experts.py` on {machine['processor']}, {machine['cores']} cores. Held-out"
        " questions: accuracy of the whole answer for words, mean Dice for masks (absent lesions count 1 where no mask"
        " is given), with 95 % intervals. The share is that of the task's own expert in the answers' tokens.",
        "",
        "| model | words | masks | share: words | share: masks | processor seconds of training |",
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
