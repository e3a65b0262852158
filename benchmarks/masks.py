"""Measure masks beside a frozen language model, on drawn images with two lesions of different kinds.

    make bench-masks
    make bench-masks-sam        # a small SAM from random weights in the place of the light decoder

A tiny language model first learns from text alone to answer questions about two lesions; it is kept for further runs
and does not count as training. Then tower, projector, the word ``<SEG>`` and the light mask decoder are trained while
the language model stays as it is, on questions that ask for a mask and on others. Held-out questions ask for each
lesion and for one that is absent, with their images and under the controls, and for what no mask answers. The pipelines
are ``medcap/tiny/masks_pipeline`` and ``masks_sam_pipeline``. Writes ``results/benchmarks/masks.json`` and
``masks.md``, or ``masks_sam.*``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scene_pipeline import Bar, page, read_scores, run_scenes
from small_sam import write_small_sam

from medcap.files import write_json, write_text
from medcap.pipeline.definition import read_pipeline

PIPELINES = {"patches": "medcap/tiny/masks_pipeline", "sam": "medcap/tiny/masks_sam_pipeline"}
TITLES = {
    "patches": "Masks beside a frozen language model",
    "sam": "Masks by a small SAM from random weights beside a frozen language model",
}
LEAST_GIVEN, MOST_GIVEN = 0.98, 0.01
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
    parser.add_argument("--decoder", choices=PIPELINES, default="patches", help="what makes the masks (patches)")
    options = parser.parse_args()
    name, script = ("masks", "benchmarks/masks.py")
    if options.decoder == "sam":
        name, script = ("masks_sam", "benchmarks/masks.py --decoder sam")
        write_small_sam(read_pipeline(PIPELINES["sam"]).folder / "sam")
    found, folder = run_scenes(PIPELINES[options.decoder], masks=True)
    task = folder / "ask" / "pixel_grounding"
    metrics = json.loads((task / "metrics.json").read_text(encoding="utf-8"))
    found |= {"scores": read_scores(metrics, list(COLUMNS)), "n": metrics["n"]}
    shown, absent = _outlined(task)
    words = _outlined(folder / "ask_words" / "vqa")[1]
    found["outlined"] = {"shown": shown, "absent": absent, "other questions": words}
    text = page(TITLES[options.decoder], script, found, COLUMNS, BARS)
    others = max(absent, words)
    text += "\n".join(
        [
            f"| a mask is given for a lesion that is there: >= {LEAST_GIVEN} |"
            f" {'yes' if shown >= LEAST_GIVEN else 'no'}, {shown:.3f} |",
            f"| a mask is given for any other question: <= {MOST_GIVEN} |"
            f" {'yes' if others <= MOST_GIVEN else 'no'}, {absent:.3f} of absent lesions, {words:.3f} of questions that"
            " no mask answers |",
            "",
        ]
    )
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / f"{name}.json", found)
    write_text(options.out / f"{name}.md", text)
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
