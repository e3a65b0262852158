"""Measure questions about regions beside a frozen language model, on drawn images with two lesions.

    make bench-regions

A tiny language model first learns from text alone to answer questions about two lesions; it is kept for further runs
and does not count as training. Then tower, projector, the words ``<region>`` and ``</region>`` and the region encoder
are trained while the language model stays as it is, and held-out questions ask which kind of lesion lies in a mask, a
box, a point or a polygon. They are asked with their images and regions and under the controls. The pipeline is
``medcap/tiny/regions_pipeline``. Writes ``results/benchmarks/regions.json`` and ``regions.md``.
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

PIPELINE = "medcap/tiny/regions_pipeline"
TEXT_RECORDS, LANGUAGE_STEPS, LANGUAGE_BATCH = 12_800, 800, 16
CONTROLS = {
    "shuffled_image": "another image",
    "no_image": "no image",
    "exchanged_region": "the other lesion's region",
}


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
    metrics = json.loads((pipeline.folder / "ask" / "region_vqa" / "metrics.json").read_text(encoding="utf-8"))
    scores = {"its image and region": _score(metrics)}
    scores |= {CONTROLS[name]: _score(found) for name, found in metrics["controls"].items()}
    read = json.loads(taught.read_text(encoding="utf-8"))["accuracy"]
    found = {"machine": machine, "language_accuracy": read, "seconds": used, "scores": scores, "n": metrics["n"]}
    text = _table(found)
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "regions.json", found)
    write_text(options.out / "regions.md", text)
    print(text)


def _teach(folder: Path) -> None:
    architecture = written_configuration("medcap/tiny/single_device")["llm"]
    architecture.pop("_component_")
    records = scene_text_records(TEXT_RECORDS, seed=0, regions=True)
    file = folder.parent / "tokenizer.model"
    train_tiktoken_file(tokenizer_texts(records), architecture["vocab_size"] - 256, file)
    tokenizer = llama3_tokenizer(str(file))
    decoder = teach_language(records, tokenizer, architecture, LANGUAGE_STEPS, LANGUAGE_BATCH)
    accuracy = answer_accuracy(decoder, tokenizer, scene_text_records(200, seed=1, regions=True))
    shutil.rmtree(folder, ignore_errors=True)
    write_hugging_face_llama(folder, decoder, architecture, file)
    file.unlink()
    write_json(folder / "accuracy.json", {"accuracy": accuracy})


def _score(block: dict[str, Any]) -> list[Any]:
    return [block["scores"]["accuracy"], block.get("intervals", {}).get("accuracy")]


def _table(found: dict[str, Any]) -> str:
    machine, train = found["machine"], found["seconds"]["train"]
    lines = [
        "# Questions about regions beside a frozen language model",
        "",
        f"Written by `benchmarks/regions.py` on {machine['processor']}, {machine['cores']} cores. {found['n']:,}"
        " held-out questions about drawn images with two lesions: which of four kinds lies in a mask, a box, a point"
        " or a polygon; with 95 % intervals by image.",
        "",
        "| asked with | accuracy |",
        "|---|---:|",
        *(f"| {title} | {_cell(*score)} |" for title, score in found["scores"].items()),
        "",
        f"Training took {train['seconds']:.0f} s, {train['processor_seconds']:.0f} s of processor time, reading the"
        f" data included. The language model answers {found['language_accuracy']:.1%} of held-out questions in words.",
        "",
    ]
    return "\n".join(lines)


def _cell(value: float, interval: dict[str, float] | None) -> str:
    return f"{value:.3f}" + (f" ({interval['low']:.3f} to {interval['high']:.3f})" if interval else "")


if __name__ == "__main__":
    main()
