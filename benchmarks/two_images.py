"""Measure whether a model that was trained on questions about two images looks at both, on drawn images.

    make bench-two-images        after make demo

Each question asks which of two images shows a kind of lesion. It is asked with its images; with another image, without
that lesion, instead of the one that shows it, so that only chance is left; with another image instead of the other one,
which must change nothing; and with the controls of every evaluation. The pipeline is
``medcap/tiny/two_images_pipeline``. Writes ``results/benchmarks/two_images.json`` and ``two_images.md``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine

from medcap.datasets.phantoms.records import KINDS
from medcap.datasets.rows.json_rows import read_rows
from medcap.files import write_json, write_text
from medcap.pipeline.definition import read_pipeline
from medcap.pipeline.run import run_pipeline

PIPELINE = "medcap/tiny/two_images_pipeline"
TRAIN_PAIRS, TEST_PAIRS = 24_000, 400
WORDS = ("first", "second")
ASKED = (
    "Which of the two images shows a {kind}, the first or the second?",
    "Where is a {kind}: in the first or in the second image?",
)
STAGES = {
    "ask": "its images",
    "ask_without_the_shown": "another image for the one that shows it",
    "ask_without_the_other": "another image for the other one",
}
CONTROLS = {"shuffled_image": "other images for both", "no_image": "no image"}


def main() -> None:
    """Write the pairs, run the pipeline, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the tables")
    options = parser.parse_args()
    machine = describe_machine()
    pipeline = read_pipeline(PIPELINE)
    _write_pairs(pipeline.folder / "data")
    seconds = run_pipeline(PIPELINE)
    scores = {title: _scores(pipeline.folder / stage) for stage, title in STAGES.items()}
    own = json.loads((pipeline.folder / "ask" / "vqa" / "metrics.json").read_text(encoding="utf-8"))
    for control, title in CONTROLS.items():
        found = own["controls"][control]
        scores[title] = [found["scores"]["accuracy"], found["intervals"]["accuracy"]]
    rows = [
        f"| {title} | {value:.3f} ({interval['low']:.3f} to {interval['high']:.3f}) |"
        for title, (value, interval) in scores.items()
    ]
    text = [
        "# Questions about two images",
        "",
        f"Written by `benchmarks/two_images.py` on {machine['processor']}, {machine['cores']} cores. {TEST_PAIRS:,}"
        " held-out questions; accuracy with its 95 % interval; chance is 0.5.",
        "",
        "| shown | accuracy |",
        "|---|---:|",
        *rows,
        "",
        f"Time: {', '.join(f'{stage} {value:.0f} s' for stage, value in seconds.items())}.",
        "",
    ]
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "two_images.json", {"machine": machine, "seconds": seconds, "scores": scores})
    write_text(options.out / "two_images.md", "\n".join(text))
    print("\n".join(text))


def _write_pairs(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    train = list(read_rows(Path("results/demo/data/train/records.jsonl")))
    test = list(read_rows(Path("results/demo/data/test/records.jsonl")))
    turns = [
        {
            "id": name,
            "image": images,
            "conversations": [
                {"from": "human", "value": f"<image>\n<image>\n{question}"},
                {"from": "gpt", "value": answer},
            ],
        }
        for name, question, images, answer, _ in _pairs([row for _, row in train], TRAIN_PAIRS, seed=0)
    ]
    _write_lines(folder / "train.jsonl", turns)
    versions: dict[str, list[dict[str, Any]]] = {"test": [], "test_without_the_shown": [], "test_without_the_other": []}
    for name, question, images, answer, third in _pairs([row for _, row in test], TEST_PAIRS, seed=1):
        shown = WORDS.index(answer)
        for version, changed in zip(versions, (None, shown, 1 - shown), strict=True):
            named = [third if position == changed else image for position, image in enumerate(images)]
            row = {"question_id": name, "image": named, "question": question, "reference": answer}
            versions[version].append(row | {"options": list(WORDS), "answer_type": "CLOSED"})
    for version, rows in versions.items():
        _write_lines(folder / f"{version}.jsonl", rows)


def _pairs(records: list[dict[str, Any]], count: int, seed: int) -> Iterator[tuple[str, str, list[str], str, str]]:
    """Yield a name, a question, its two images, the right answer, and a third image without the lesion asked for."""
    stream = np.random.default_rng(seed)
    images = {kind: [row["image"] for row in records if row["kind"] == kind] for kind in KINDS}
    others = {kind: [row["image"] for row in records if row["kind"] != kind] for kind in KINDS}
    for number in range(count):
        kind = KINDS[stream.integers(len(KINDS))]
        shown = images[kind][stream.integers(len(images[kind]))]
        other, third = (others[kind][position] for position in stream.choice(len(others[kind]), 2, replace=False))
        position = int(stream.integers(2))
        question = ASKED[stream.integers(len(ASKED))].format(kind=kind)
        pair = [shown, other] if position == 0 else [other, shown]
        yield f"{seed}-{number:06d}", question, pair, WORDS[position], third


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    write_text(path, "".join(f"{json.dumps(row)}\n" for row in rows))


def _scores(folder: Path) -> list[Any]:
    metrics = json.loads((folder / "vqa" / "metrics.json").read_text(encoding="utf-8"))
    return [metrics["scores"]["accuracy"], metrics["intervals"]["accuracy"]]


if __name__ == "__main__":
    main()
