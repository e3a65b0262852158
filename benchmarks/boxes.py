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
import shutil
from pathlib import Path
from typing import Any

from machine import describe_machine
from timed_stage import run_timed

from medcap.checkpoints.hf_llama_writer import write_hugging_face_llama
from medcap.datasets.phantoms.scene_questions import scene_text_records
from medcap.demo.language import answer_accuracy, teach_language, tokenizer_texts
from medcap.demo.tokenizer import train_tiktoken_file
from medcap.files import write_json, write_text
from medcap.models.tokenizers import llama3_tokenizer
from medcap.pipeline.definition import read_pipeline
from medcap.pipeline.program import written_configuration
from medcap.pipeline.stages import Stages

PIPELINE = "medcap/tiny/boxes_pipeline"
TEXT_RECORDS, LANGUAGE_STEPS, LANGUAGE_BATCH = 12_800, 800, 16
CONTROLS = {
    "shuffled_image": "another image",
    "no_image": "no image",
    "exchanged_question": "the other lesion's question",
    "prior_box": "the mean box of the phrase in training",
}
SCORES = ("mean_iou", "acc_50", "false_positive_rate")
# What the box head is to reach: the score, the control that it is read under, its bound.
BARS = (
    ("mean_iou", None, ">=", 0.6),
    ("mean_iou", "shuffled_image", "<=", 0.2),
    ("mean_iou", "exchanged_question", "<=", 0.3),
    ("false_positive_rate", None, "<=", 0.05),
)


def main() -> None:
    """Teach, run the pipeline, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="folder for the tables")
    options = parser.parse_args()
    machine = describe_machine()
    pipeline = read_pipeline(PIPELINE)
    pipeline.folder.mkdir(parents=True, exist_ok=True)
    taught = pipeline.folder / "llm" / "accuracy.json"
    language = [TEXT_RECORDS, LANGUAGE_STEPS, LANGUAGE_BATCH]
    Stages(pipeline.folder / "language.json").run("language", language, taught, lambda: _teach(taught.parent))
    used = {stage.name: run_timed(stage) for stage in pipeline.stages}
    metrics = json.loads((pipeline.folder / "ask" / "grounding" / "metrics.json").read_text(encoding="utf-8"))
    scores = {"its image": _scores(metrics)}
    scores |= {CONTROLS[name]: _scores(found) for name, found in metrics["controls"].items()}
    read = json.loads(taught.read_text(encoding="utf-8"))["accuracy"]
    found = {"machine": machine, "language_accuracy": read, "seconds": used, "scores": scores, "n": metrics["n"]}
    text = _table(found)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "boxes.json", found)
    write_text(options.out / "boxes.md", text)
    print(text)


def _teach(folder: Path) -> None:
    architecture = written_configuration("medcap/tiny/single_device")["llm"]
    architecture.pop("_component_")
    records = scene_text_records(TEXT_RECORDS, seed=0, short=True)
    file = folder.parent / "tokenizer.model"
    train_tiktoken_file(tokenizer_texts(records), architecture["vocab_size"] - 256, file)
    tokenizer = llama3_tokenizer(str(file))
    decoder = teach_language(records, tokenizer, architecture, LANGUAGE_STEPS, LANGUAGE_BATCH)
    accuracy = answer_accuracy(decoder, tokenizer, scene_text_records(500, seed=1, short=True))
    shutil.rmtree(folder, ignore_errors=True)
    write_hugging_face_llama(folder, decoder, architecture, file)
    file.unlink()
    write_json(folder / "accuracy.json", {"accuracy": accuracy})


def _scores(block: dict[str, Any]) -> dict[str, Any]:
    intervals = block.get("intervals", {})
    return {name: [block["scores"][name], intervals.get(name)] for name in SCORES if name in block["scores"]}


def _table(found: dict[str, Any]) -> str:
    machine, train = found["machine"], found["seconds"]["train"]
    lines = [
        "# Boxes of a head beside a frozen language model",
        "",
        f"Written by `benchmarks/boxes.py` on {machine['processor']}, {machine['cores']} cores. {found['n']:,} held-out"
        " questions about drawn images with two lesions, with 95 % intervals by image; a third of the questions ask for"
        " a lesion that the image does not show.",
        "",
        "| asked with | mean IoU | Acc@0.5 | boxes on absent lesions |",
        "|---|---:|---:|---:|",
        *(
            f"| {title} | {' | '.join(_cell(scores, name) for name in SCORES)} |"
            for title, scores in found["scores"].items()
        ),
        "",
        f"Training took {train['seconds']:.0f} s, {train['processor_seconds']:.0f} s of processor time, reading the"
        f" data included. The language model answers {found['language_accuracy']:.1%} of held-out questions in words.",
        "",
    ]
    lines += ["| bar | reached |", "|---|---|", *(_bar(found["scores"], *bar) for bar in BARS), ""]
    return "\n".join(lines)


def _cell(scores: dict[str, Any], name: str) -> str:
    value, interval = scores.get(name, [None, None])
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" ({interval['low']:.3f} to {interval['high']:.3f})" if interval else "")


def _bar(scores: dict[str, Any], name: str, control: str | None, sign: str, bound: float) -> str:
    title = CONTROLS[control] if control else "its image"
    value = scores.get(title, {}).get(name, [None])[0]
    reached = value is not None and (value >= bound if sign == ">=" else value <= bound)
    return f"| {name}, {title}: {sign} {bound} | {'yes' if reached else 'no'}, {_cell(scores.get(title, {}), name)} |"


if __name__ == "__main__":
    main()
