"""Everything that a recipe needs, small: a frozen Llama, pictures, a data file; and a way to start recipes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torchtune._cli.tune import main as tune_main

from helpers.llm_checkpoints import random_decoder, tiny_llm, write_hugging_face_llm

QUESTIONS = (("Is there a circle?", "Yes"), ("Is the square red?", "No"), ("What is shown?", "Chest image, normal"))
TINY_VISION = "{name: tiny, image_size: 16, stride: 8, width: 32, depth: 1, heads: 2}"


class Workspace:
    """A folder with an LLM, four pictures and 13 records.

    Args:
        folder: where.
        llm: arguments of the LLM's builder that differ from those of ``tiny_llm``.
    """

    def __init__(self, folder: Path, **llm: Any) -> None:
        self.folder = folder
        self.llm = tiny_llm(**llm)
        write_hugging_face_llm(folder / "llm", random_decoder(self.llm))
        (folder / "images").mkdir()
        generator = np.random.default_rng(0)
        for index in range(4):
            pixels = generator.integers(0, 255, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / f"{index}.png")
        self.data = self.write_data("train.json", self.records())

    def records(self) -> list[dict[str, Any]]:
        """Three questions and a caption for each picture in turn, and a row without a picture."""
        rows = [
            {
                "image": f"images/{index}.png",
                "conversations": [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": answer}],
            }
            for question, answer in QUESTIONS
            for index in range(4)
        ]
        return [*rows, {"conversations": [{"from": "human", "value": "Yes?"}, {"from": "gpt", "value": "No, left"}]}]

    def write_data(self, name: str, rows: Sequence[Any]) -> Path:
        """Write a data file beside the images."""
        path = self.folder / name
        path.write_text(json.dumps(rows), encoding="utf-8")
        return path

    def model_overrides(self) -> list[str]:
        """The command line's words for this LLM."""
        arguments = {key: value for key, value in self.llm.items() if key != "_component_"}
        return [
            f"llm._component_={self.llm['_component_']}",
            *(f"llm.{key}={value}" for key, value in arguments.items()),
            f"tokenizer.path={self.folder}/llm/original/tokenizer.model",
            f"checkpointer.checkpoint_dir={self.folder}/llm",
            "device=cpu",
        ]

    def train(self, *overrides: str, output: str = "run") -> Path:
        """Run the training recipe; returns its output folder."""
        tune(*self.training(*overrides, output=output))
        return self.folder / output

    def training(self, *overrides: str, output: str = "run") -> list[str]:
        """The command line of a training run: recipe, configuration and overrides."""
        return [
            "full_finetune_single_device",
            "medcap/tiny/single_device",
            *self.model_overrides(),
            f"output_dir={self.folder / output}",
            f"vision={TINY_VISION}",
            "projector.num_image_tokens=4",
            f"dataset.source={self.data}",
            "dataset.max_seq_len=96",
            "num_workers=0",
            "batch_size=2",
            "epochs=1",
            "lr_scheduler.num_warmup_steps=1",
            *overrides,
        ]

    def generate(self, *overrides: str) -> None:
        """Run the generation recipe."""
        tune("generate", "medcap/tiny/generation", *self.model_overrides(), "max_new_tokens=8", *overrides)


def tune(recipe: str, config: str, *overrides: str) -> None:
    """Start a recipe as ``tune run`` does, in this process.

    Raises:
        SystemExit: with the program's status, unless it is 0.
    """
    tune_words(run_arguments(recipe, config, *overrides))


def tune_words(words: Sequence[str]) -> None:
    """Run ``tune`` with the words that follow it on the command line, in this process.

    Raises:
        SystemExit: with the program's status, unless it is 0.
    """
    before = sys.argv
    sys.argv = ["tune", *words]
    try:
        tune_main()
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.argv = before


def run_arguments(recipe: str, config: str, *overrides: str) -> list[str]:
    """What comes behind ``tune`` on the command line."""
    return ["run", f"medcap/recipes/{recipe}", "--config", config, *overrides]


def log(output: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl that have a loss."""
    lines = (output / "log" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]
