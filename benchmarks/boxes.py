"""Measure boxes of a head beside a frozen language model, on drawn images with two lesions of different kinds.

    make bench-boxes

A tiny language model first learns from text alone to answer questions about two lesions; it is kept for further runs
and does not count as training. Then tower, projector, the word ``<BOX>`` and the box head are trained while the
language model stays as it is, and held-out questions ask for each lesion and for one that is absent. They are asked
with their images and under the controls. The pipeline is ``medcap/tiny/boxes_pipeline``. Writes
``results/benchmarks/boxes.json`` and ``boxes.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from scene_pipeline import Bar, page, read_scores, run_scenes

from medcap.files import write_json, write_text

PIPELINE = "medcap/tiny/boxes_pipeline"
COLUMNS = {"mean_iou": "mean IoU", "acc_50": "Acc@0.5", "false_positive_rate": "boxes on absent lesions"}
BARS = (
    Bar("mean_iou", None, ">=", 0.6),
    Bar("mean_iou", "shuffled_image", "<=", 0.2),
    Bar("mean_iou", "exchanged_question", "<=", 0.3),
    Bar("false_positive_rate", None, "<=", 0.05),
)


def main() -> None:
    """Teach, run the pipeline, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the tables")
    options = parser.parse_args()
    found, folder = run_scenes(PIPELINE, masks=False)
    metrics = json.loads((folder / "ask" / "grounding" / "metrics.json").read_text(encoding="utf-8"))
    found |= {"scores": read_scores(metrics, list(COLUMNS)), "n": metrics["n"]}
    text = page("Boxes of a head beside a frozen language model", "benchmarks/boxes.py", found, COLUMNS, BARS)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "boxes.json", found)
    write_text(options.out / "boxes.md", text)
    print(text)


if __name__ == "__main__":
    main()
