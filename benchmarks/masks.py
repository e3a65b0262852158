"""Measure masks beside a frozen language model, on drawn images with two lesions of different kinds.

    make bench-masks

A tiny language model first learns from text alone to answer questions about two lesions; it is kept for further runs
and does not count as training. Then tower, projector, the word ``<SEG>`` and the light mask decoder are trained while
the language model stays as it is, on questions that ask for a mask and on others. Held-out questions ask for each
lesion and for one that is absent, with their images and under the controls, and for what no mask answers. The pipeline
is ``medcap/tiny/masks_pipeline``. Writes ``results/benchmarks/masks.json`` and ``masks.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scene_pipeline import Bar, page, read_scores, run_scenes

from medcap.files import write_json, write_text

PIPELINE = "medcap/tiny/masks_pipeline"
COLUMNS = {
    "mean_dice_present": "mean Dice",
    "mean_iou_present": "mean IoU",
    "false_positive_rate": "masks of absent lesions",
}
BARS = (
    Bar("mean_dice_present", None, ">=", 0.85),
    Bar("mean_dice_present", "shuffled_image", "<=", 0.10),
    Bar("mean_dice_present", "exchanged_question", "<=", 0.25),
    Bar("false_positive_rate", None, "<=", 0.01),
)


def main() -> None:
    """Teach, run the pipeline, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the tables")
    options = parser.parse_args()
    found, folder = run_scenes(PIPELINE, masks=True)
    task = folder / "ask" / "pixel_grounding"
    metrics = json.loads((task / "metrics.json").read_text(encoding="utf-8"))
    found |= {"scores": read_scores(metrics, list(COLUMNS)), "n": metrics["n"]}
    shown, absent = _outlined(task)
    words = _outlined(folder / "ask_words" / "vqa")[1]
    found["outlined"] = {"shown": shown, "absent": absent, "other questions": words}
    text = page("Masks beside a frozen language model", "benchmarks/masks.py", found, COLUMNS, BARS)
    text += "\n".join(
        [
            f"A mask is given for {shown:.1%} of the lesions that are there, for {absent:.1%} of those that are not,"
            f" and for {words:.1%} of the questions that no mask answers.",
            "",
        ]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "masks.json", found)
    write_text(options.out / "masks.md", text)
    print(text)


def _outlined(task: Path) -> tuple[float, float]:
    """Return the share of answers with a mask, of the rows that ask for one and of the others."""
    rows = list(_predictions(task / "predictions.jsonl"))
    shares = []
    for wanted in (True, False):
        given = [any(row.get("masks") or ()) for row in rows if _asks_for_one(row) is wanted]
        shares.append(sum(given) / len(given) if given else 0.0)
    return shares[0], shares[1]


def _asks_for_one(row: dict[str, Any]) -> bool:
    """Return whether a row's reference is a mask, and not an absent object or words alone."""
    return any(mask and mask.get("mask") for mask in row.get("reference_masks") or ())


def _predictions(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        yield from map(json.loads, lines)


if __name__ == "__main__":
    main()
