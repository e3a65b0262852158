"""Measure boxes that a tiny frozen language model says in words, on drawn images, in three steps.

    make bench-boxes-as-text

First the language model learns from text alone to answer questions about two things and their boxes, and from rows that
stand for images; it is kept for further runs and does not count as training. Then tower and projector are trained on
images with one lesion, and further on images with two of different kinds, while the language model stays as it is; for
two lesions also with coordinates as added words and with adapters. The pipeline is
``medcap/tiny/boxes_as_text_pipeline``; what was done with the same settings is not done again. Writes
``results/benchmarks/boxes_as_text.json`` and ``boxes_as_text.md``.
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
from medcap.demo.box_language import NOTATION
from medcap.demo.box_teaching import practise_rows, teach_box_language
from medcap.files import write_json, write_text
from medcap.pipeline.definition import Stage, read_pipeline
from medcap.pipeline.program import written_configuration
from medcap.pipeline.stages import Stages
from medcap.scoring.metrics.boxes import iou

PIPELINE = "medcap/tiny/boxes_as_text_pipeline"
LANGUAGE_STEPS, ROW_STEPS = 900, 540
ASKED = {
    "box": "the box of a thing",
    "kind": "the thing in a box",
    "boxes": "all things and their boxes",
    "presence": "whether a thing is there",
    "absent": "the box of a thing that is not there",
}
# Images, seed, lesions of each.
DRAWN = {
    "one": (8000, 200, 1),
    "one_test": (200, 201, 1),
    "two": (8000, 202, 2),
    "two_test": (200, 203, 2),
}
TRAINED = {
    "one": "one lesion, language model frozen",
    "two": "two lesions, language model frozen",
    "two_words": "two lesions, coordinates as added words",
    "two_lora": "two lesions, adapters",
}
SHOWN = {
    None: "its image",
    "shuffled_image": "another image",
    "no_image": "no image",
    "exchanged_question": "the other lesion's question",
}
WHERE = {
    "asked": "on the lesion asked for",
    "other": "on the other lesion",
    "elsewhere": "on none",
    "no box": "not one box",
}
MINUTES = 10  # of processor time that a training may take


def main() -> None:
    """Teach, run the pipeline, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the tables")
    parser.add_argument("--until", help="last stage to run; by default all")
    options = parser.parse_args()
    machine = describe_machine()
    pipeline = read_pipeline(PIPELINE)
    pipeline.folder.mkdir(parents=True, exist_ok=True)
    llm, practised = pipeline.folder / "llm", pipeline.folder / "llm_rows"
    architecture = written_configuration("medcap/tiny/single_device")["llm"] | {"num_kv_heads": 6}
    taught = Stages(pipeline.folder / "language.json")
    taught.run(
        "language",
        [LANGUAGE_STEPS, architecture],
        llm / "accuracy.json",
        lambda: _teach(llm, architecture),
    )
    taught.run("rows", ROW_STEPS, practised / "accuracy.json", lambda: _practise(llm, practised, architecture))
    data = pipeline.folder / "data"
    taught.run("images", DRAWN, data / "two_test_shown.jsonl", lambda: _draw_all(data))
    used: dict[str, Any] = {}
    for stage in pipeline.stages:
        used[stage.name] = _measured(taught, stage)
        if stage.name == options.until:
            break
    found = {
        "machine": machine,
        "text_accuracy": json.loads((practised / "accuracy.json").read_text(encoding="utf-8")),
        "language_seconds": taught.seconds,
        "seconds": used,
        "scores": {name: _scores(pipeline.folder / f"ask_{name}") for name in TRAINED if f"ask_{name}" in used},
        "where": {name: _where(pipeline.folder / f"ask_{name}") for name in TRAINED if f"ask_{name}" in used},
    }
    text = _page(found)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "boxes_as_text.json", found)
    write_text(options.out / "boxes_as_text.md", text)
    print(text)


def _teach(folder: Path, architecture: dict[str, Any]) -> None:
    teach_box_language(folder, architecture, LANGUAGE_STEPS)


def _practise(taught: Path, folder: Path, architecture: dict[str, Any]) -> None:
    practise_rows(taught, folder, architecture, ROW_STEPS)


def _measured(stages: Stages, stage: Stage) -> dict[str, float]:
    """Run a stage, unless it is done, and return what it took."""
    file = stage.folder / "used.json"
    stages.run(stage.name, stage.key, file, lambda: write_json(file, run_timed(stage)))
    return json.loads(file.read_text(encoding="utf-8"))


def _draw_all(folder: Path) -> None:
    for name, (count, seed, lesions) in DRAWN.items():
        _draw(folder / name, count, seed, lesions)


def _draw(folder: Path, count: int, seed: int, lesions: int) -> None:
    """Draw scenes, and pick the questions about lesions that are there."""
    write_scenes(folder, count, seed, lesions=(lesions,), notation=NOTATION)
    file = folder / ("test_rec.jsonl" if folder.name.endswith("_test") else "train_rec.jsonl")
    shown = [row | {"image": f"{folder.name}/{row['image']}"} for _, row in read_rows(file) if row["boxes"]]
    rows = [json.dumps(row) + "\n" for row in shown]
    write_text(folder.parent / f"{folder.name}_shown.jsonl", "".join(rows))


def _scores(folder: Path) -> dict[str, Any]:
    """Return mean IoU and its interval, by what was shown and asked."""
    metrics = json.loads((folder / "grounding" / "metrics.json").read_text(encoding="utf-8"))
    blocks = {None: metrics} | metrics["controls"]
    return {
        title: [blocks[control]["scores"]["mean_iou"], blocks[control]["intervals"].get("mean_iou")]
        for control, title in SHOWN.items()
        if control in blocks
    }


def _where(folder: Path) -> dict[str, float]:
    """Return which share of the answers has its box on the lesion asked for, on another one, or nowhere near.

    A box is on the lesion that it overlaps most, with an IoU of at least 0.3.
    """
    rows = [row for _, row in read_rows(folder / "grounding" / "predictions.jsonl")]
    shown: dict[str, dict[str, Any]] = {}
    for row in rows:
        shown.setdefault(row["image"], {})[row["phrase"]] = row["reference_boxes"][0]["box"]
    counts = dict.fromkeys(WHERE, 0)
    for row in rows:
        place = "no box"
        if len(row.get("boxes", ())) == 1:
            overlaps = {name: iou(row["boxes"][0], box) for name, box in shown[row["image"]].items()}
            nearest = max(overlaps, key=lambda name: overlaps[name])
            place = "elsewhere" if overlaps[nearest] < 0.3 else "asked" if nearest == row["phrase"] else "other"
        counts[place] += 1
    return {place: count / len(rows) for place, count in counts.items()}


def _page(found: dict[str, Any]) -> str:
    machine, seconds = found["machine"], found["seconds"]
    lines = [
        "# Boxes as text",
        "",
        f"Written by `benchmarks/boxes_as_text.py` on {machine['processor']}, {machine['cores']} cores.",
        "",
        "Text alone, two things in random boxes: whole answers right. Teaching took"
        f" {found['language_seconds']['language']:.0f} s, practising rows {found['language_seconds']['rows']:.0f} s.",
        "",
        "| asked for | right |",
        "|---|---:|",
        *(f"| {ASKED[name]} | {share:.3f} |" for name, share in found["text_accuracy"].items()),
        "",
        "Images: mean IoU with its 95 % interval by image, on held-out questions. Training on two lesions continues"
        " that on one, whose time is counted in.",
        "",
        f"| trained | {' | '.join(SHOWN.values())} | processor seconds |",
        f"|---|{'---:|' * (len(SHOWN) + 1)}",
    ]
    for name, scores in found["scores"].items():
        cells = " | ".join(_cell(scores.get(title)) for title in SHOWN.values())
        lines.append(f"| {TRAINED[name]} | {cells} | {_training_seconds(seconds, name):.0f} |")
    lines += [
        "",
        "Where the boxes of answers lie: on a lesion if their IoU with it is at least 0.3.",
        "",
        f"| trained | {' | '.join(WHERE.values())} |",
        f"|---|{'---:|' * len(WHERE)}",
    ]
    for name, shares in found["where"].items():
        lines.append(f"| {TRAINED[name]} | {' | '.join(f'{share:.1%}' for share in shares.values())} |")
    lines += ["", "| bar | reached |", "|---|---|", *_bars(found), ""]
    return "\n".join(lines)


def _training_seconds(seconds: dict[str, Any], name: str) -> float:
    """Return the processor time of a training and of the one that it continues."""
    return sum(seconds[stage]["processor_seconds"] for stage in {"one", name})


def _cell(value: list[Any] | None) -> str:
    if value is None:
        return "-"
    score, interval = value
    return f"{score:.3f}" + (f" ({interval['low']:.3f} to {interval['high']:.3f})" if interval else "")


def _bars(found: dict[str, Any]) -> list[str]:
    """Return a line for each thing that is to be reached."""
    scores = {name: {title: value[0] for title, value in shown.items()} for name, shown in found["scores"].items()}
    right = found["text_accuracy"]
    bars = [("text: the box of a thing, at least 0.9", right["box"], right["box"] >= 0.9)]
    bars.append(("text: the thing in a box, at least 0.9", right["kind"], right["kind"] >= 0.9))
    if "one" in scores:
        image, other = scores["one"][SHOWN[None]], scores["one"][SHOWN["shuffled_image"]]
        bars.append(("one lesion: mean IoU at least 0.5", image, image >= 0.5))
        bars.append(("one lesion: another image, at most 0.2", other, other <= 0.2))
    for name in ("two", "two_words", "two_lora"):
        if name in scores:
            fall = scores[name][SHOWN[None]] - scores[name][SHOWN["exchanged_question"]]
            bars.append((f"{TRAINED[name]}: the other's question costs at least 0.2", fall, fall >= 0.2))
    minutes = max((_training_seconds(found["seconds"], name) for name in scores), default=0) / 60
    bars.append((f"training: at most {MINUTES} processor minutes", minutes, minutes <= MINUTES))
    return [f"| {title} | {'yes' if reached else 'no'}, {value:.2f} |" for title, value, reached in bars]


if __name__ == "__main__":
    main()
