"""Run a pipeline on drawn images with two lesions behind a language model taught by text, and tell its bars."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import describe_machine
from timed_stage import run_timed

from medcap.checkpoints.hf_llama_writer import write_hugging_face_llama
from medcap.datasets.phantoms.scene_questions import SOMEWHERE, scene_text_records
from medcap.demo.language import answer_accuracy, teach_language, tokenizer_texts
from medcap.demo.tokenizer import train_tiktoken_file
from medcap.files import write_json
from medcap.models.tokenizers import llama3_tokenizer
from medcap.pipeline.definition import read_pipeline
from medcap.pipeline.program import written_configuration
from medcap.pipeline.stages import Stages

TEXT_RECORDS, LANGUAGE_STEPS, LANGUAGE_BATCH = 12_800, 800, 16
OWN = "its image"
CONTROLS = {
    "shuffled_image": "another image",
    "no_image": "no image",
    "exchanged_question": "the other lesion's question",
    "prior_box": "the mean box of the phrase in training",
    "prior_mask": "the mean mask of the phrase in training",
}


@dataclass(frozen=True)
class Bar:
    """What is to be reached.

    Attributes:
        score: name of the score.
        control: the control that it is read under; None for the questions with their images.
        sign: ">=" or "<=".
        bound: the bound.
    """

    score: str
    control: str | None
    sign: str
    bound: float

    def line(self, scores: Mapping[str, Mapping[str, Any]]) -> str:
        """Return the table's line of this bar."""
        title = CONTROLS[self.control] if self.control else OWN
        found = scores.get(title, {})
        value = found.get(self.score, [None])[0]
        reached = value is not None and (value >= self.bound if self.sign == ">=" else value <= self.bound)
        said = f"{'yes' if reached else 'no'}, {cell(found, self.score)}"
        return f"| {self.score}, {title}: {self.sign} {self.bound} | {said} |"


def run_scenes(name: str, masks: bool, somewhere: str = SOMEWHERE) -> tuple[dict[str, Any], Path]:
    """Teach the language model, unless that was done, and run a pipeline's stages.

    The language model is kept for further runs in the pipeline's folder and does not count as training.

    Args:
        name: the pipeline.
        masks: whether the language model is also asked for masks.
        somewhere: its word for a place, as in :func:`scene_text_records`.

    Returns:
        ``machine``, ``language_accuracy`` and ``seconds`` of each stage; and the pipeline's folder.
    """
    machine, pipeline = describe_machine(), read_pipeline(name)
    pipeline.folder.mkdir(parents=True, exist_ok=True)
    taught = pipeline.folder / "llm" / "accuracy.json"
    language = [TEXT_RECORDS, LANGUAGE_STEPS, LANGUAGE_BATCH, masks, somewhere]
    stages = Stages(pipeline.folder / "language.json")
    stages.run("language", language, taught, lambda: _teach(taught.parent, masks, somewhere))
    used = {stage.name: run_timed(stage) for stage in pipeline.stages}
    accuracy = json.loads(taught.read_text(encoding="utf-8"))["accuracy"]
    return {"machine": machine, "language_accuracy": accuracy, "seconds": used}, pipeline.folder


def read_scores(metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the scores of a task and of its controls: title -> score -> value and interval.

    Args:
        metrics: what the task's ``metrics.json`` holds.
        names: the scores.
    """
    blocks = {OWN: metrics} | {CONTROLS[name]: found for name, found in metrics["controls"].items()}
    return {
        title: {
            name: [block["scores"][name], block.get("intervals", {}).get(name)]
            for name in names
            if name in block["scores"]
        }
        for title, block in blocks.items()
    }


def page(title: str, script: str, found: Mapping[str, Any], columns: Mapping[str, str], bars: Sequence[Bar]) -> str:
    """Return the page of a measurement.

    Args:
        title: its heading.
        script: file that wrote it.
        found: of :func:`run_scenes`, with ``scores`` and ``n``.
        columns: score -> heading of its column.
        bars: what is to be reached.
    """
    machine, train = found["machine"], found["seconds"]["train"]
    lines = [
        f"# {title}",
        "",
        f"Written by `{script}` on {machine['processor']}, {machine['cores']} cores. {found['n']:,} held-out questions"
        " about drawn images with two lesions, with 95 % intervals by image; a third of the questions ask for a lesion"
        " that the image does not show.",
        "",
        f"| asked with | {' | '.join(columns.values())} |",
        f"|---|{'---:|' * len(columns)}",
        *(
            f"| {title} | {' | '.join(cell(scores, name) for name in columns)} |"
            for title, scores in found["scores"].items()
        ),
        "",
        f"Training took {train['seconds']:.0f} s, {train['processor_seconds']:.0f} s of processor time, reading the"
        f" data included. The language model answers {found['language_accuracy']:.1%} of held-out questions in words.",
        "",
        "| bar | reached |",
        "|---|---|",
        *(bar.line(found["scores"]) for bar in bars),
        "",
    ]
    return "\n".join(lines)


def cell(scores: Mapping[str, Any], name: str) -> str:
    """Return a score with its interval as a table shows it."""
    value, interval = scores.get(name, [None, None])
    if value is None:
        return "-"
    return f"{value:.3f}" + (f" ({interval['low']:.3f} to {interval['high']:.3f})" if interval else "")


def _teach(folder: Path, masks: bool, somewhere: str) -> None:
    architecture = written_configuration("medcap/tiny/single_device")["llm"]
    architecture.pop("_component_")
    records = scene_text_records(TEXT_RECORDS, seed=0, short=True, masks=masks, somewhere=somewhere)
    file = folder.parent / "tokenizer.model"
    train_tiktoken_file(tokenizer_texts(records), architecture["vocab_size"] - 256, file)
    tokenizer = llama3_tokenizer(str(file))
    decoder = teach_language(records, tokenizer, architecture, LANGUAGE_STEPS, LANGUAGE_BATCH)
    held_out = scene_text_records(500, seed=1, short=True, masks=masks, somewhere=somewhere)
    accuracy = answer_accuracy(decoder, tokenizer, held_out)
    shutil.rmtree(folder, ignore_errors=True)
    write_hugging_face_llama(folder, decoder, architecture, file)
    file.unlink()
    write_json(folder / "accuracy.json", {"accuracy": accuracy})
