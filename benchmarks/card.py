"""Everything worth running on one GPU, in eight minutes and in order of value; without a GPU a rehearsal, small.

    make gpu                              # all of it
    python benchmarks/card.py --only correctness training_bf16 --seconds 240
    pip list --format freeze > there.txt  # on the machine with the GPU, if it reaches no package index; then here:
    python benchmarks/card.py --wheels there.txt     # what it lacks, to be carried there with the project

Each part has a time limit, a log and a result file of its own, so that what is done is kept whatever comes after it.
Written: ``results/benchmarks/gpu/CARD/``, with ``summary.md`` over all parts.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Collection, Iterable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import torch
from machine import describe_machine
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from parts import Outcome, Part, outcomes_table, run_parts

from medcap.files import write_json, write_text

ROOT = Path(__file__).parents[1]
# In seconds. A rehearsal's parts take two processor cores that others use too.
ALL_SECONDS, REHEARSAL_SECONDS = 480.0, 590.0
# What the tests and the benchmarks need beside medcap itself.
FURTHER_PACKAGES = ("pytest", "transformers", "bitsandbytes", "open_clip_torch", "starlette", "uvicorn")
# They come with the GPU's driver and CUDA, and are too large to carry.
WITH_TORCH = ("torch", "torchvision")


def main() -> int:
    """Run the parts; the status is 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="PART", help="only these parts")
    parser.add_argument("--seconds", type=float, help=f"for all parts ({ALL_SECONDS:.0f}; 590 without a GPU)")
    parser.add_argument("--out", type=Path, help="where logs and tables go (results/benchmarks/gpu/CARD)")
    parser.add_argument("--wheels", type=Path, metavar="FREEZE", help="only say which packages a machine lacks")
    options = parser.parse_args()
    if options.wheels:
        there = {line.partition("==")[0].strip() for line in options.wheels.read_text(encoding="utf-8").splitlines()}
        print("\n".join(missing_packages(there)))
        return 0
    cuda = torch.cuda.is_available()
    folder = options.out or ROOT / "results/benchmarks/gpu" / (card_name() if cuda else "rehearsal")
    parts = card_parts(folder) if cuda else rehearsal_parts(folder)
    unknown = set(options.only or ()) - {part.name for part in parts}
    if unknown:
        parser.error(f"--only {' '.join(sorted(unknown))}: the parts are {', '.join(part.name for part in parts)}")
    if options.only:
        parts = [part for part in parts if part.name in options.only]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "machine.json", describe_machine() | {"driver": _driver()})
    environment = {"PYTHONPATH": str(ROOT / "tests"), "MEDCAP_TEST_DEVICE": "cuda" if cuda else "cpu"}
    seconds = options.seconds or (ALL_SECONDS if cuda else REHEARSAL_SECONDS)
    outcomes = run_parts(parts, folder, seconds, environment)
    write_text(folder / "summary.md", summary(folder, outcomes))
    print(f"written: {folder}")
    return int(any(outcome.status in ("failed", "out of time") for outcome in outcomes))


def card_parts(folder: Path) -> list[Part]:
    """Return what is run on a GPU of 141 GB, the most valuable first.

    Args:
        folder: where the parts write.
    """
    eight = ("--preset", "llama3_1_8b", "--dtype", "bf16")
    ours = ("--sides", "ours", "--workloads", "captions", "--repeats", "3", "--split", "--compile")
    theirs = ("--sides", "transformers", "--out", str(folder / "transformers"))
    own = ("--out", str(folder))
    return [
        _pytest("correctness", 100, "tests/gpu"),
        _script("attention", 20, "attention_kernels.py", *own),
        _script("recipes", 50, "small_recipes.py", *own),
        _script("training_bf16", 60, "training_step.py", *eight, *ours, *own),
        _script("training_fp8", 50, "training_step.py", *eight, *ours, "--llm-weights", "fp8", *own),
        _script("decoding", 90, "generation.py", *eight, "--sides", "ours", *_DECODING, *own),
        _script("training_int8", 45, "training_step.py", *eight, *ours, "--llm-weights", "int8", *own),
        _script("weights", 60, "frozen_weights.py", "--preset", "llama3_1_8b", *_WEIGHTS, *own),
        _script("transformers_training", 30, "training_step.py", *eight, "--workloads", "captions", *theirs),
        _script("transformers_decoding", 40, "generation.py", *eight, *_THEIR_DECODING, *theirs),
    ]


_DECODING = ("--batch-sizes", "32", "256", "--new-tokens", "64", "--repeats", "2")
_THEIR_DECODING = ("--batch-sizes", "32", "--new-tokens", "32", "--repeats", "1")
_WEIGHTS = ("--compile", "--repeats", "5", "--reference", "bf16")


def rehearsal_parts(folder: Path) -> list[Part]:
    """Return the same parts at a size for two processor cores.

    Args:
        folder: where the parts write.
    """
    tiny = ("--preset", "tiny", "--device", "cpu", "--out", str(folder))
    theirs = (*tiny[:-1], str(folder / "transformers"), "--sides", "transformers", "--repeats", "1")
    ours = (*tiny, "--sides", "ours", "--workloads", "captions", "--repeats", "1", "--split")
    decoding = ("--batch-sizes", "4", "--new-tokens", "4", "--repeats", "1")
    weights = ("--preset", "small", "--device", "cpu", "--rows", "1", "--row-length", "64", "--dtype", "fp32")
    return [
        _pytest("correctness", 240, "tests/gpu", "-k", "not compiled and not True and not compile"),
        _script("attention", 120, "attention_kernels.py", *tiny[2:]),
        _script("recipes", 120, "small_recipes.py", *tiny[2:]),
        _script("training_bf16", 120, "training_step.py", *ours),
        _script("training_fp8", 120, "training_step.py", *ours, "--llm-weights", "fp8"),
        _script("decoding", 120, "generation.py", *tiny, "--sides", "ours", *decoding),
        _script("training_int8", 120, "training_step.py", *ours, "--llm-weights", "int8"),
        _script("weights", 120, "frozen_weights.py", *weights, "--out", str(folder)),
        _script("transformers_training", 120, "training_step.py", *theirs, "--workloads", "captions"),
        _script("transformers_decoding", 120, "generation.py", *theirs, *decoding),
    ]


def _script(name: str, seconds: float, file: str, *arguments: str) -> Part:
    return Part(name, (sys.executable, str(ROOT / "benchmarks" / file), *arguments), seconds)


def _pytest(name: str, seconds: float, *arguments: str) -> Part:
    command = (sys.executable, "-m", "pytest", "--rootdir", str(ROOT), "-v", "--durations=10", "-p", "no:cacheprovider")
    return Part(name, (*command, *(str(ROOT / one) if one.startswith("tests/") else one for one in arguments)), seconds)


def card_name() -> str:
    """Return the GPU's name as a folder's."""
    return re.sub(r"[^a-z0-9]+", "_", torch.cuda.get_device_name().lower()).strip("_")


def _driver() -> str | None:
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def summary(folder: Path, outcomes: Iterable[Outcome]) -> str:
    """Return one page: the card, what came of each part, and the tables that the parts wrote.

    Args:
        folder: where the parts wrote.
        outcomes: of the parts.
    """
    machine = describe_machine()
    outcomes = list(outcomes)
    lines = [
        f"# {machine['processor']}",
        "",
        f"torch {machine['torch']}, Python {machine['python']}. Made by `benchmarks/card.py`.",
        "",
        *outcomes_table(outcomes),
        "",
    ]
    tables = sorted(path for path in folder.rglob("*.md") if path != folder / "summary.md")
    lines += [f"- [{path.stem}]({path.relative_to(folder)})" for path in tables]
    return "\n".join(lines) + "\n"


def missing_packages(there: Collection[str]) -> list[str]:
    """Return what medcap and the parts need and another machine lacks, at the versions of this one.

    Args:
        there: names of the packages of the other machine.
    """
    # What torch brings is there with it.
    have = {canonicalize_name(name) for name in there} | set(_needs(WITH_TORCH))
    needed = set(_needs(["medcap", *FURTHER_PACKAGES])) - {"medcap"}
    return [f"{name}=={version(name)}" for name in sorted(needed - have)]


def _needs(names: Iterable[str]) -> dict[str, None]:
    """Return packages and all that they need, without extras."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = canonicalize_name(waiting.pop())
        if name in found:
            continue
        try:
            further = requires(name) or []
        except PackageNotFoundError:
            continue  # for another system or Python
        found[name] = None
        wanted = [Requirement(line) for line in further]
        waiting += [one.name for one in wanted if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found


if __name__ == "__main__":
    sys.exit(main())
