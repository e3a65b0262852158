"""``medcap demo``: the whole way on drawn images, through the same recipes and configurations that real runs use."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcap.files import write_json, write_text
from medcap.pipeline.overrides import override_text
from medcap.pipeline.program import RECIPE_FOLDER, Program, written_configuration
from medcap.pipeline.run import run_words
from medcap.pipeline.stages import Stages

TRAIN_IMAGES = 4800
QUESTIONS_PER_TRAIN_IMAGE = 3
TEST_IMAGES = 100
TEXT_RECORDS = 12_800
LANGUAGE_STEPS = 800
TRAIN_CONFIG = "medcap/tiny/single_device"
GENERATION_CONFIG = "medcap/tiny/generation"


def run_demo(out: Path, seed: int) -> dict[str, Any]:
    """Draw images, teach a tiny Llama to read, freeze it, teach it to see, ask it, score it.

    Args:
        out: folder for everything; what an earlier run left there and still fits is used again.
        seed: seed of the whole run; training and test images never share one.

    Returns:
        The content of ``metrics.json``.

    Raises:
        UserError: if a folder cannot be written or a step fails.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    stages = Stages(out / "stages.json")
    train, test = out / "data" / "train", out / "data" / "test"
    drawn = [TRAIN_IMAGES, QUESTIONS_PER_TRAIN_IMAGE, TEST_IMAGES, seed]
    stages.run("data", drawn, train / "train.jsonl", lambda: _draw(train, test, seed))
    read = [TEXT_RECORDS, LANGUAGE_STEPS, seed, written_configuration(TRAIN_CONFIG)["llm"]]
    stages.run("language", read, out / "llm/config.json", lambda: _teach_language(out / "llm", seed))
    stages.run("train", _command_key(_train_command(out, seed)), out / "train/summary.json", lambda: _train(out, seed))
    vqa_command, caption_command = _generation_commands(out)
    stages.run("generate", _command_key(vqa_command), out / "vqa/metrics.json", lambda: _run(vqa_command))
    stages.run("caption", _command_key(caption_command), out / "caption/metrics.json", lambda: _run(caption_command))

    metrics = _collect(out)
    metrics["seconds"] = stages.seconds | {"total": round(time.monotonic() - started, 1)}
    metrics["cached"] = stages.cached
    write_json(out / "metrics.json", metrics)
    from medcap.demo.page import write_demo_page

    write_demo_page(out, metrics)
    print(_table(metrics))
    print(f"\nPage:    {out / 'report.html'}\nScores:  {out / 'metrics.json'}")
    return metrics


def _draw(train: Path, test: Path, seed: int) -> None:
    from medcap.datasets.phantoms.writing import write_phantoms

    for folder in (train, test):
        shutil.rmtree(folder, ignore_errors=True)
    write_phantoms(train, TRAIN_IMAGES, 2 * seed, questions_per_image=QUESTIONS_PER_TRAIN_IMAGE)
    write_phantoms(test, TEST_IMAGES, 2 * seed + 1)
    # One training file: of each image its caption, which names everything, and a few questions.
    captions = json.loads((train / "captions.json").read_text(encoding="utf-8"))
    asked = {"from": "human", "value": "<image>"}
    rows = [{"image": row["image"], "conversations": [asked, row["conversations"][1]]} for row in captions]
    lines = [json.dumps(row) + "\n" for row in rows]
    write_text(train / "train.jsonl", "".join(lines) + (train / "questions.jsonl").read_text(encoding="utf-8"))


def _teach_language(folder: Path, seed: int) -> None:
    from medcap.checkpoints.hf_llama_writer import write_hugging_face_llama
    from medcap.datasets.phantoms.records import text_records
    from medcap.demo.language import answer_accuracy, teach_language, tokenizer_texts
    from medcap.demo.tokenizer import train_tiktoken_file
    from medcap.models.tokenizers import llama3_tokenizer

    architecture = written_configuration(TRAIN_CONFIG)["llm"]
    architecture.pop("_component_")
    records = text_records(TEXT_RECORDS, seed)
    file = folder.parent / "tokenizer.model"
    train_tiktoken_file(tokenizer_texts(records), architecture["vocab_size"] - 256, file)
    tokenizer = llama3_tokenizer(str(file))
    decoder = teach_language(records, tokenizer, architecture, LANGUAGE_STEPS, seed=seed)
    accuracy = answer_accuracy(decoder, tokenizer, text_records(500, seed + 1))
    print(f"reads descriptions in text: {accuracy:.1%} of held-out answers right", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    write_hugging_face_llama(folder, decoder, architecture, file)
    file.unlink()


def _train(out: Path, seed: int) -> None:
    shutil.rmtree(out / "train", ignore_errors=True)
    _run(_train_command(out, seed))


def _train_command(out: Path, seed: int) -> list[str]:
    overrides = {"output_dir": out / "train", "dataset.source": out / "data/train/train.jsonl", "seed": seed}
    return _words("full_finetune_single_device", TRAIN_CONFIG, _llm_overrides(out) | overrides)


def _generation_commands(out: Path) -> tuple[list[str], list[str]]:
    shared = _llm_overrides(out) | {"output_dir": out, "vision_checkpoint": out / "train", "overwrite": True}
    vqa = {"test_vqa": True, "controls": ["shuffled_image"], "dataset_source": out / "data/test/vqa.jsonl"}
    caption = {"test_caption": True, "dataset_source": out / "data/test/captions.json"}
    return _words("generate", GENERATION_CONFIG, shared | vqa), _words("generate", GENERATION_CONFIG, shared | caption)


def _llm_overrides(out: Path) -> dict[str, Any]:
    return {"checkpointer.checkpoint_dir": out / "llm", "tokenizer.path": out / "llm/original/tokenizer.model"}


def _words(recipe: str, config: str, overrides: Mapping[str, Any]) -> list[str]:
    given = {key: str(value) if isinstance(value, Path) else value for key, value in overrides.items()}
    texts = {key: override_text(value, key) for key, value in given.items()}
    return Program(f"{RECIPE_FOLDER}/{recipe}", config, texts).words()


def _command_key(words: list[str]) -> list[Any]:
    """Return a command and what its configuration says now."""
    return [words, written_configuration(words[words.index("--config") + 1])]


def _run(words: list[str]) -> None:
    print("$ " + " ".join(words), file=sys.stderr, flush=True)
    run_words(words, "the demo")


def _collect(out: Path) -> dict[str, Any]:
    vqa, caption, train = (
        json.loads((out / name).read_text(encoding="utf-8"))
        for name in ("vqa/metrics.json", "caption/metrics.json", "train/summary.json")
    )
    shuffled = vqa["controls"]["shuffled_image"]
    exchanged = {"accuracy_shuffled": shuffled["scores"]["accuracy"]}
    intervals = vqa["intervals"] | {"accuracy_shuffled": shuffled["intervals"]["accuracy"]}
    return {
        "vqa": vqa["scores"] | exchanged | {"n": vqa["n"], "intervals": intervals},
        "caption": caption["scores"] | {"n": caption["n"]},
        "llm_sha256_before": train["llm_sha256_before"],
        "llm_sha256_after": train["llm_sha256_after"],
        "train": {name: train[name] for name in ("steps", "samples", "trained_parameters")},
    }


def _table(metrics: Mapping[str, Any]) -> str:
    vqa, caption, seconds = metrics["vqa"], metrics["caption"], metrics["seconds"]
    same = metrics["llm_sha256_before"] == metrics["llm_sha256_after"]
    rows = [
        (f"answers right, {vqa['n']} held-out questions", f"{vqa['accuracy']:.3f}"),
        ("the same with the images exchanged", f"{vqa['accuracy_shuffled']:.3f}"),
        (f"captions of {caption['n']} held-out images, CIDEr", f"{caption['CIDEr']:.3f}"),
        ("captions, BLEU-4", f"{caption['Bleu_4']:.3f}"),
        ("language model", "unchanged, bit for bit" if same else "CHANGED"),
        ("minutes", f"{seconds['total'] / 60:.1f}"),
    ]
    return "\n" + "\n".join(f"  {name:<44} {value:>24}" for name, value in rows)
