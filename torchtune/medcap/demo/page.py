"""The demo's page: what the model saw, what it said, and how it learnt."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcap.data.images.reader import ImageReader
from medcap.report.charts import LineChart, Points
from medcap.report.gallery import Gallery, Sample
from medcap.report.page_frame import Page
from medcap.report.sections import Bar, Card, Cards, Facts, Table
from medcap.scoring.protocols.exact import exact_match


def write_demo_page(out: Path, metrics: Mapping[str, Any]) -> None:
    """Write ``<out>/report.html``.

    Args:
        out: the demo's folder, with the training log and both tasks' predictions.
        metrics: what ``metrics.json`` holds.
    """
    tables = json.loads((out / "vqa/metrics.json").read_text(encoding="utf-8"))["tables"]
    reader = ImageReader([out])
    page = Page(
        "A frozen Llama learns to see",
        "A tiny Llama that has only ever read was frozen. A vision tower and a projector learnt to put image tokens"
        " into its input. These pictures and questions were never trained on.",
        [
            Cards(_cards(metrics)),
            LineChart("How it learnt", _curve(out), "step", "loss", "Mean cross-entropy of the assistant's tokens."),
            *(_table(name.replace("_", " "), [(row[name], row) for row in table]) for name, table in tables.items()),
            Gallery("What it says about a picture", _samples(out, "caption"), limit=24, reader=reader),
            Gallery("What it answers", _samples(out, "vqa", asked=True), limit=48, reader=reader),
            Facts("How this was made", _facts(metrics)),
        ],
    )
    page.write(out / "report.html")


def _curve(out: Path) -> dict[str, Points]:
    rows = [json.loads(line) for line in (out / "train/log/metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return {"training loss": [(row["step"], row["loss"]) for row in rows if row.get("loss") is not None]}


def _table(name: str, groups: list[tuple[str, Mapping[str, Any]]]) -> Table:
    rows = [[group, f"{row['value']:.3f}", f"{row['right']} / {row['n']}"] for group, row in groups]
    return Table(f"Questions by {name}", [name, "accuracy", "right"], rows)


def _cards(metrics: Mapping[str, Any]) -> list[Card]:
    vqa, caption = metrics["vqa"], metrics["caption"]

    def share(label: str, key: str, main: bool = False) -> Card:
        interval = vqa["intervals"].get(key)
        bar = Bar(vqa[key], interval["low"], interval["high"]) if interval else None
        return Card(label, f"{vqa[key]:.1%}", f"{vqa['n']:,} held-out questions", bar, main)

    same = metrics["llm_sha256_before"] == metrics["llm_sha256_after"]
    return [
        share("Answers right", "accuracy", main=True),
        share("The same questions, images exchanged", "accuracy_shuffled"),
        Card(
            "CIDEr of captions", f"{caption['CIDEr']:.2f}", f"BLEU-4 {caption['Bleu_4']:.3f}, {caption['n']:,} images"
        ),
        Card(
            "Language model",
            "unchanged" if same else "CHANGED",
            f"sha256 {str(metrics['llm_sha256_after'])[:12]}… before and after" if same else "the hashes differ",
        ),
    ]


def _samples(out: Path, task: str, asked: bool = False) -> list[Sample]:
    samples = []
    for line in (out / task / "predictions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        references = row["reference"] if isinstance(row["reference"], list) else [row["reference"]]
        samples.append(
            Sample(
                generated=row["prediction"],
                references=references,
                images=row.get("images") or [row["image"]] if row["image"] else [],
                question=row["question"] if asked else "",
                correct=exact_match(row["prediction"], references) if asked else None,
                name=row["question_id"],
                problem=row["error"],
            )
        )
    return samples


def _facts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    train = metrics["train"]
    seconds = {f"seconds for {name}": value for name, value in metrics["seconds"].items()}
    return {
        "trained parameters": f"{train['trained_parameters']:,}",
        "training samples": f"{train['samples']:,}",
        "optimizer steps": f"{train['steps']:,}",
        "language model before": metrics["llm_sha256_before"],
        "language model after": metrics["llm_sha256_after"],
        **seconds,
    }
