"""Measure whether questions that words answer suffer from masks learnt beside them, on drawn images with two lesions.

    make bench-words-beside-masks

A tower first learns from captions and questions about images with one lesion. From there each of three seeds trains
twice, in as many steps and with as many captions and questions in words: once on these alone, and once with questions
beside them that a mask answers. The tiny language model is taught by text alone before, and stays as it is. The
pipeline is ``medcap/tiny/words_beside_masks_pipeline``. Writes ``results/benchmarks/words_beside_masks.json`` and
``words_beside_masks.md``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import mean
from typing import Any

from scene_pipeline import cell, run_scenes

from medcap.datasets.rows.json_rows import read_rows
from medcap.files import write_json, write_text

PIPELINE = "medcap/tiny/words_beside_masks_pipeline"
SEEDS = (0, 1, 2)
MOST_BELOW = 0.02


def main() -> None:
    """Teach, run the pipeline, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the tables")
    options = parser.parse_args()
    found, folder = run_scenes(PIPELINE, masks=True, somewhere="0")
    found["scores"] = {
        str(seed): {name: _score(folder / f"ask_{name}_{seed}" / "vqa") for name in ("words", "both")} for seed in SEEDS
    }
    found["dice"] = {str(seed): _dice(folder / f"ask_masks_{seed}" / "pixel_grounding") for seed in SEEDS}
    text = _page(found)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "words_beside_masks.json", found)
    write_text(options.out / "words_beside_masks.md", text)
    print(text)


def _score(task: Path) -> dict[str, Any]:
    """Return accuracy, its interval, accuracy with other images, and the share of answers that hold a mask."""
    metrics = json.loads((task / "metrics.json").read_text(encoding="utf-8"))
    rows = [row for _, row in read_rows(task / "predictions.jsonl")]
    return {
        "n": metrics["n"],
        "accuracy": [metrics["scores"]["accuracy"], metrics.get("intervals", {}).get("accuracy")],
        "shuffled_image": metrics["controls"]["shuffled_image"]["scores"]["accuracy"],
        "outlined": mean(bool(any(row.get("masks") or ())) for row in rows),
    }


def _dice(task: Path) -> float:
    """Return the mean Dice of the masks of lesions that are there."""
    return json.loads((task / "metrics.json").read_text(encoding="utf-8"))["scores"]["mean_dice_present"]


def _page(found: dict[str, Any]) -> str:
    machine, scores, seconds = found["machine"], found["scores"], found["seconds"]
    count = scores[str(SEEDS[0])]["words"]["n"]
    means = {name: mean(pair[name]["accuracy"][0] for pair in scores.values()) for name in ("words", "both")}
    changes = [pair["both"]["accuracy"][0] - pair["words"]["accuracy"][0] for pair in scores.values()]
    lines = [
        "# Words beside masks",
        "",
        f"Written by `benchmarks/words_beside_masks.py` on {machine['processor']}, {machine['cores']} cores. Accuracy"
        f" on {count:,} held-out questions that words answer, with 95 % intervals by image, after as many steps with"
        " and without masks beside them. The last columns: answers among these that hold a mask, and the mean Dice of"
        " the masks that were learnt beside the words.",
        "",
        "| seed | words alone | words beside masks | change | another image, alone | beside masks | with a mask"
        " | Dice of masks |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for (seed, pair), change in zip(scores.items(), changes, strict=True):
        alone, beside = pair["words"], pair["both"]
        values = f"{cell(alone, 'accuracy')} | {cell(beside, 'accuracy')} | {change:+.3f}"
        lines.append(
            f"| {seed} | {values} | {alone['shuffled_image']:.3f} | {beside['shuffled_image']:.3f}"
            f" | {beside['outlined']:.1%} | {found['dice'][seed]:.3f} |"
        )
    used = {name: mean(seconds[f"{name}_{seed}"]["processor_seconds"] for seed in SEEDS) for name in ("words", "both")}
    reached = mean(changes) >= -MOST_BELOW
    lines += [
        f"| mean | {means['words']:.3f} | {means['both']:.3f} | {mean(changes):+.3f} | | | | |",
        "",
        f"A training took {used['words']:.0f} s of processor time without masks and {used['both']:.0f} s with them;"
        f" what all start from took {seconds['start']['processor_seconds']:.0f} s.",
        "",
        "| bar | reached |",
        "|---|---|",
        f"| words beside masks: at most {MOST_BELOW} worse, mean of the seeds | {'yes' if reached else 'no'},"
        f" {mean(changes):+.3f} |",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
