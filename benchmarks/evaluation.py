"""How fast questions are answered: the package's two modes against plain loops, in one run, with equal outputs.

    make bench-evaluation

It needs the model of ``medcap demo`` and draws its own questions. Written: ``results/benchmarks/evaluation.json`` and
``evaluation.md``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from machine import describe_machine
from omegaconf import OmegaConf

from helpers.plain_medcap import MODE, plain_no_cond_desc, plain_option_text
from medcap.checkpoints.build_model import choose_device, choose_dtype, plan_model
from medcap.checkpoints.run import with_language_model
from medcap.configs import packaged_configs
from medcap.configuration import check
from medcap.data.images.reader import ImageReader
from medcap.datasets.phantoms.benchmarks import write_phantom_benchmarks
from medcap.evaluation.answering import Engine, PredictionStore
from medcap.evaluation.generate_keys import GenerateConfiguration
from medcap.evaluation.prompting.likelihood import OptionText
from medcap.evaluation.prompting.medcap_2024 import MedcapMode
from medcap.evaluation.prompting.options import MappedOption
from medcap.evaluation.tasks.choices.omnimedvqa import OmniMedVqaTask
from medcap.generation.generator import Generator
from medcap.generation.request import Sampling
from medcap.scoring.question import Question

MAX_NEW_TOKENS = 64
# Three questions an image, each with four options.
QUESTION_TYPES = ("Modality Recognition", "Disease Diagnosis", "Anatomy Identification")


def main() -> None:
    """Measure, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("results/demo"), help="folder of medcap demo (results/demo)")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks"), help="where the table goes")
    parser.add_argument("--images", type=int, default=200, help="images, three questions each (200)")
    parser.add_argument("--plain-images", type=int, default=12, help="images that the plain loops see (12)")
    parser.add_argument("--repeats", type=int, default=5, help="interleaved repeats (5)")
    parser.add_argument("--batch-size", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_phantom_benchmarks(Path(folder, "data"), options.images, seed=1)
        rows = phantom_questions(Path(folder, "data"), options.images)
        generator = demo_generator(options.demo, Path(folder, "data"), options.batch_size)
        report = measure(generator, rows, options.plain_images, options.repeats, Path(folder))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "evaluation.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (options.out / "evaluation.md").write_text(_table(report), encoding="utf-8")
    print(_table(report))


def measure(
    generator: Generator, rows: list[Question], plain_images: int, repeats: int, folder: Path
) -> dict[str, Any]:
    """Run the package's modes and the plain loops in turn.

    Args:
        generator: the model.
        rows: questions, those of one image together.
        plain_images: the plain loops see only the questions of so many images; their speed does not depend on it.
        repeats: each is measured so often, in turn.
        folder: for prediction files.

    Returns:
        Questions a second of every repeat, and the ratios within each.
    """
    images = list(dict.fromkeys(str(row.image) for row in rows))[:plain_images]
    few = [row for row in rows if str(row.image) in images]
    kinds: dict[str, tuple[Sequence[Question], Callable[[Sequence[Question], Path], Any]]] = {
        "generation": (rows, lambda asked, path: _generate(generator, asked, path)),
        "likelihood": (rows, lambda asked, path: _score(generator, asked, path)),
        "plain generation": (few, lambda asked, _: plain_no_cond_desc(generator, asked, MAX_NEW_TOKENS)),
        "plain likelihood": (few, lambda asked, _: plain_option_text(generator, asked)),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    outputs: dict[str, Any] = {}
    for repeat in range(repeats):
        for name, (asked, run) in kinds.items():
            started = time.perf_counter()
            outputs[name] = run(asked, folder / f"{name}-{repeat}")
            rates[name].append(len(asked) / (time.perf_counter() - started))
    positions = [rows.index(row) for row in few]
    for ours, plain in (("generation", "plain generation"), ("likelihood", "plain likelihood")):
        assert [outputs[ours][position] for position in positions] == outputs[plain], (
            f"{ours} gives other outputs than {plain}"
        )
    return {
        "machine": describe_machine(),
        "batch_size": generator.batch_size,
        "questions": len(rows),
        "questions_of_the_plain_loops": len(few),
        "images": len({str(row.image) for row in rows}),
        "questions_per_second": rates,
        "ratios": {
            "generation / plain generation": _ratios(rates, "generation", "plain generation"),
            "likelihood / plain generation": _ratios(rates, "likelihood", "plain generation"),
            "likelihood / plain likelihood": _ratios(rates, "likelihood", "plain likelihood"),
        },
    }


def phantom_questions(data: Path, images: int) -> list[Question]:
    """Return three questions for each image of a folder of phantoms, with four options each.

    Args:
        data: folder of ``write_phantom_benchmarks``.
        images: how many images it has.
    """
    rows = OmniMedVqaTask().load(data).rows
    wanted = [row for row in rows if row.meta["question_type"] in QUESTION_TYPES]
    assert len(wanted) == 3 * images and {len(row.options) for row in wanted} == {4}
    return wanted


def demo_generator(demo: Path, images: Path, batch_size: int) -> Generator:
    """Read the demo's model.

    Args:
        demo: folder of ``medcap demo``.
        images: folder of the images that requests may name.
        batch_size: answers that are decoded together.
    """
    config: Any = OmegaConf.load(packaged_configs()["medcap/tiny/generation"])
    config.checkpointer.checkpoint_dir = str(demo / "llm")
    config.tokenizer.path = str(demo / "llm/original/tokenizer.model")
    config.vision_checkpoint = str(demo / "train")
    _, model_keys = with_language_model(check(config, GenerateConfiguration))
    plan = plan_model(model_keys)
    device = choose_device("auto")
    model = plan.load(device, choose_dtype("auto", device))
    reader = ImageReader([images])
    return Generator(model, plan.tokenizer, plan.vision.preprocess, reader, batch_size, 256, progress=False)


def _engine(generator: Generator) -> Engine:
    return Engine(generator, Sampling(max_new_tokens=MAX_NEW_TOKENS))


def _generate(generator: Generator, rows: Sequence[Question], folder: Path) -> list[tuple[str, str, str]]:
    method = MappedOption(MedcapMode(MODE))
    store = PredictionStore(folder, {})
    mapped = method.ask(rows, _engine(generator), store)
    answers = method.free.ask(rows, _engine(generator), store)
    return [
        (answer["description"], answer["prediction"], letter["prediction"])
        for answer, letter in zip(answers, mapped, strict=True)
    ]


def _score(generator: Generator, rows: Sequence[Question], folder: Path) -> list[str]:
    return [entry["prediction"] for entry in OptionText().ask(rows, _engine(generator), PredictionStore(folder, {}))]


def _ratios(rates: dict[str, list[float]], one: str, other: str) -> dict[str, float]:
    values = [first / second for first, second in zip(rates[one], rates[other], strict=True)]
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def _table(report: dict[str, Any]) -> str:
    machine = report["machine"]
    lines = [
        "# Evaluation speed",
        "",
        "The demo's model in float32; 3 questions an image, 4 options each."
        f" {report['questions']} questions ({report['questions_of_the_plain_loops']} for the plain loops), batch size"
        f" {report['batch_size']}, {len(next(iter(report['questions_per_second'].values())))} interleaved repeats.",
        "Outputs are equal: description, answer and option letter; most likely option.",
        f"{machine['processor']}, {machine['cores']} cores, torch {machine['torch']}, Python {machine['python']}.",
        "Made by `make bench-evaluation`.",
        "",
        "| questions per second | median | lowest | highest |",
        "|---|---|---|---|",
    ]
    for name, rates in report["questions_per_second"].items():
        lines.append(f"| {name} | {statistics.median(rates):.1f} | {min(rates):.1f} | {max(rates):.1f} |")
    lines += ["", "| ratio | median | lowest | highest |", "|---|---|---|---|"]
    for name, ratio in report["ratios"].items():
        lines.append(f"| {name} | {ratio['median']:.1f} | {ratio['lowest']:.1f} | {ratio['highest']:.1f} |")
    lines += [
        "",
        "Plain generation: batch 1, no cache, the image encoded for each call; a description an image, then an answer"
        " and an option letter for each question. Plain likelihood: one forward pass an option, the image encoded for"
        " each. Both in `tests/helpers/`.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
