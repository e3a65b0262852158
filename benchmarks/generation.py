"""How fast a model of given shapes answers and scores: ours, transformers and plain loops, in one process and in turn.

    make bench-generation                    # preset small: two processor cores, minutes
    PYTHONPATH=tests python benchmarks/generation.py --preset llama3_1_8b --dtype bf16       # a GPU of 80 GB

All sides have the same random weights and get the same questions about the same images; their greedy tokens, scores
and most likely options are compared first. No token ends an answer, so all answers have the same length. Written:
``results/benchmarks/generation_PRESET.{json,md}``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generation_report import OMNIMEDVQA_QUESTIONS, bandwidth_bound, ratios, table
from generation_sides import Models, Ours, Plain, Question, Side, Transformers, Words, make_models, now
from machine import describe_machine
from PIL import Image
from training_workloads import ANSWER_LENGTHS, FIRST_WORD, PRESETS, QUESTION_LENGTHS, QUESTIONS_AN_IMAGE, Preset

from medcap.checkpoints.build_model import choose_device
from medcap.errors import UserError
from medcap.files import write_json, write_text
from medcap.models.preprocess import Preprocess
from medcap.modules.frozen_linear import LLM_WEIGHTS, UNQUANTISED

SIDES = ("ours", "transformers", "plain")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
BATCH_SIZES = {"tiny": [4], "small": [8, 32], "llama3_2_1b": [8, 32, 128], "llama3_1_8b": [8, 32, 128]}
# Images of the scored questions, where each has one and where each has several; a GPU needs more for a steady rate.
SCORED_IMAGES = {"cpu": (6, 1), "cuda": (128, 16)}
OPTIONS = 4
# The plain loop computes everything again for every token, so a few must do.
PLAIN_TOKENS = 6
# Far more than any cache holds.
READ_BYTES = 1 << 30


def main() -> None:
    """Measure, print the tables and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="small")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32", help="of the language models (fp32)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--llm-weights", choices=LLM_WEIGHTS, default=UNQUANTISED, help="of our decoder's layers")
    parser.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, help="our decoding step; as Generator does, on a GPU"
    )
    parser.add_argument("--repeats", type=int, default=3, help="each is measured so often, in turn (3)")
    parser.add_argument("--new-tokens", type=int, default=64, help="of an answer, 2 at least (64)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", help="besides 1; by preset")
    parser.add_argument(
        "--sides", nargs="+", choices=SIDES, default=list(SIDES), help="whose models are measured (all)"
    )
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the tables go")
    options = parser.parse_args()
    if options.new_tokens < 2:
        parser.error("--new-tokens must be 2 at least: the first is part of the prefill")
    with tempfile.TemporaryDirectory() as folder:
        report = measure(PRESETS[options.preset], options, Path(folder))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / f"generation_{options.preset}"
    write_json(path.with_suffix(".json"), report)
    write_text(path.with_suffix(".md"), table(report))
    print(table(report))


def measure(preset: Preset, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time all sides on all workloads.

    Args:
        preset: the models' shapes.
        options: the command line's.
        folder: for the images.

    Returns:
        Seconds, rates, agreement and ratios.
    """
    device = choose_device(options.device)
    torch.manual_seed(0)
    own = "ours" in options.sides or "plain" in options.sides
    theirs = "transformers" in options.sides
    models = make_models(preset, device, DTYPES[options.dtype], options.llm_weights, own, theirs)
    report = {
        "machine": describe_machine(),
        "wait_policy": os.environ.get("OMP_WAIT_POLICY", "its own"),
        "preset": options.preset,
        "dtype": options.dtype,
        "llm_weights": options.llm_weights,
        "device": device.type,
        "compile": bool(device.type == "cuda" if options.compile is None else options.compile),
        "new_tokens": options.new_tokens,
        "token_bytes": models.token_bytes,
        "decoding": {},
        "scoring": {},
    }
    source = random.Random(0)
    for batch_size in [1, *(options.batch_sizes or BATCH_SIZES[options.preset])]:
        questions = _questions(preset, source, folder, batch_size, 1)
        report["decoding"][batch_size] = _decoding(models, preset, questions, folder, options)
    report["bound"] = bandwidth_bound(report)
    for name, images, questions_each in zip(
        ("one question an image", "several questions an image"),
        (2, 1) if options.preset == "tiny" else SCORED_IMAGES[device.type],
        (1, QUESTIONS_AN_IMAGE),
        strict=True,
    ):
        questions = _questions(preset, source, folder, images, questions_each)
        report["scoring"][name] = _scoring(models, preset, questions, folder, options)
    rates = report["scoring"]["one question an image"]["questions_per_second"]
    report["omnimedvqa_hours"] = {
        side: [OMNIMEDVQA_QUESTIONS / rate / 3600 for rate in values] for side, values in rates.items()
    }
    return report


def _decoding(
    models: Models, preset: Preset, questions: Sequence[Question], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Seconds until all rows have their first token, and the rate of the tokens after it."""
    sides: dict[str, Side] = {}
    if "ours" in options.sides:
        sides["ours"] = Ours(models.made_ours(), preset, len(questions), folder, options.compile)
        if len(questions) == 1 and models.device.type == "cpu" and options.compile is None:
            sides["ours, compiled"] = Ours(models.made_ours(), preset, 1, folder, True)
        if len(questions) == 1 and models.device.type == "cuda":
            captured = Ours(models.made_ours(), preset, 1, folder, options.compile, cuda_graphs=True)
            sides["ours, CUDA graphs"] = captured
    if "transformers" in options.sides:
        pixels = _pixels(preset, questions)
        sides["transformers"] = Transformers(models.theirs, preset, pixels)
        if models.device.type == "cuda":
            sides["transformers, static cache"] = Transformers(models.theirs, preset, pixels, static_cache=True)
    if len(questions) == 1 and "plain" in options.sides:
        sides["plain loop, no cache"] = Plain(models.made_ours(), preset, 1, folder, False)
    lengths = {name: min(options.new_tokens, PLAIN_TOKENS) if "plain" in name else options.new_tokens for name in sides}
    answers = {name: _or_none(lambda n=name: sides[n].answer(questions, lengths[n])) for name in sides}
    fitting = {name: side for name, side in sides.items() if answers[name] is not None}
    agreement = {}
    if "ours" in fitting:
        agreement = {name: _agreement(answers["ours"].tokens, answers[name].tokens) for name in fitting}
    _check_agreement(agreement, "greedy tokens", options)
    first: dict[str, list[float]] = {name: [] for name in fitting}
    rates: dict[str, list[float]] = {name: [] for name in fitting}
    bandwidth: list[float] = []
    for _ in range(options.repeats):
        if len(questions) == 1:  # in turn with what is held against it: on a shared machine it changes
            bandwidth.append(_read_bandwidth(models.device))
        for name, side in fitting.items():
            found = side.answer(questions, lengths[name])
            first[name].append(found.first_seconds)
            rates[name].append(len(questions) * (lengths[name] - 1) / found.rest_seconds)
    print(f"decoding, batch {len(questions)}: {json.dumps(ratios(rates))}", file=sys.stderr)
    return {
        "agreement": agreement,
        "out_of_memory": [name for name in sides if name not in fitting],
        "first_token_seconds": first,
        "tokens_per_second": rates,
        "bandwidth_bytes_per_second": bandwidth,
        "ratios": ratios(rates),
    }


def _scoring(
    models: Models, preset: Preset, questions: Sequence[Question], folder: Path, options: argparse.Namespace
) -> dict[str, Any]:
    sides: dict[str, Side] = {}
    if "ours" in options.sides:
        sides["ours"] = Ours(models.made_ours(), preset, preset.batch_size, folder, options.compile)
    if "transformers" in options.sides:
        pixels = _pixels(preset, questions)
        sides["transformers"] = Transformers(models.theirs, preset, pixels)
        sides["transformers, logits_to_keep"] = Transformers(models.theirs, preset, pixels, few_logits=True)
    if "plain" in options.sides:
        sides["plain loop"] = Plain(models.made_ours(), preset, 1, folder, False)
    scores = {name: _or_none(lambda s=side: s.score(questions)) for name, side in sides.items()}
    fitting = {name: side for name, side in sides.items() if scores[name] is not None}
    best = {name: [[row.index(max(row))] for row in scores[name]] for name in fitting}
    agreement = {name: _agreement(best["ours"], best[name]) for name in fitting} if "ours" in fitting else {}
    _check_agreement(agreement, "most likely options", options)
    seconds: dict[str, list[float]] = {name: [] for name in fitting}
    for _ in range(options.repeats):
        for name, side in fitting.items():
            seconds[name].append(_seconds(lambda s=side: s.score(questions)))
    rates = {name: [len(questions) / value for value in values] for name, values in seconds.items()}
    print(f"scoring, {len(questions)} questions: {json.dumps(ratios(rates))}", file=sys.stderr)
    return {
        "questions": len(questions),
        "images": len({question.image for question in questions}),
        "agreement": agreement,
        "largest_difference": {
            name: float(np.abs(np.array(scores["ours"]) - np.array(scores[name])).max()) for name in agreement
        },
        "out_of_memory": [name for name in sides if name not in fitting],
        "seconds": seconds,
        "questions_per_second": rates,
        "ratios": ratios(rates),
    }


def _questions(preset: Preset, source: random.Random, folder: Path, images: int, each: int) -> list[Question]:
    """So many questions about each of some new images of noise."""

    def words(lengths: tuple[int, int]) -> Words:
        return tuple(source.randrange(FIRST_WORD, preset.vocab_size) for _ in range(source.randint(*lengths)))

    questions = []
    for _ in range(images):
        file = folder / f"{len(list(folder.iterdir()))}.png"
        noise = np.random.default_rng(source.randrange(1 << 32)).integers(
            0, 256, (preset.image_size, preset.image_size, 3), dtype=np.uint8
        )
        Image.fromarray(noise).save(file)
        questions += [
            Question(file, words(QUESTION_LENGTHS), tuple(words(ANSWER_LENGTHS) for _ in range(OPTIONS)))
            for _ in range(each)
        ]
    return questions


def _pixels(preset: Preset, questions: Sequence[Question]) -> dict[Path, torch.Tensor]:
    """Of each image, normalised: our model does that itself."""
    preprocess = Preprocess(preset.image_size)
    transform = preprocess.transform()
    return {
        question.image: preprocess.normalize(transform(Image.open(question.image))[None])[0] for question in questions
    }


def _or_none(run: Callable[[], Any]) -> Any:
    """Return what it gives, or None where the device's memory is too small."""
    try:
        return run()
    except torch.OutOfMemoryError:
        return None
    except UserError as error:
        if "memory is too small" not in str(error):
            raise
        return None
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _agreement(ours: Sequence[Sequence[int]], others: Sequence[Sequence[int]]) -> float:
    """Share of equal tokens at equal places."""
    pairs = [pair for one, other in zip(ours, others, strict=True) for pair in zip(one, other, strict=False)]
    return sum(one == other for one, other in pairs) / len(pairs)


def _check_agreement(agreement: dict[str, float], what: str, options: argparse.Namespace) -> None:
    exact = options.dtype == "fp32" and options.llm_weights == UNQUANTISED
    for side, share in agreement.items():
        if exact and share < 1:
            raise SystemExit(f"{side} and ours have {share:.1%} of the {what} in common")


def _seconds(run: Callable[[], Any]) -> float:
    # Answers and scores are numbers of the host, so there is nothing left to wait for.
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def _read_bandwidth(device: torch.device) -> float:
    """Bytes a second of the best of a sum and a matrix-vector product over a large fp32 tensor."""
    numbers = torch.ones(READ_BYTES // 4, device=device)
    matrix = numbers.view(-1, 1 << 14)
    vector = torch.ones(1 << 14, device=device)
    best = float("inf")
    for read in (numbers.sum, lambda: matrix @ vector):
        for _ in range(4):
            started = now(device)
            read()
            best = min(best, now(device) - started)
    return READ_BYTES / best


if __name__ == "__main__":
    main()
