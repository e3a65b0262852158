"""``medcap prepare phantom-benchmarks``: drawn images in the layouts of the public benchmarks."""

from __future__ import annotations

import argparse
from pathlib import Path

from medcap.commands.arguments import positive, seed

HELP = "drawn images in the official layouts of OmniMedVQA, VQA-RAD, SLAKE, PathVQA, LLaVA-Med and ColonINST"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("--out", type=Path, required=True, help="folder to write; a run's dataset_source")
    parser.add_argument("--count", type=positive, required=True, help="number of images")
    parser.add_argument("--seed", type=seed, required=True, help="of the images; never one that was trained on")
    parser.add_argument("--image-size", type=positive, default=64, help="side in pixels (64)")


def run(options: argparse.Namespace) -> None:
    """Write the benchmarks and print what they hold.

    Args:
        options: what :func:`add_arguments` adds.

    Raises:
        UserError: for a number out of range, or a folder that holds anything else.
    """
    from medcap.datasets.phantoms.benchmarks import write_phantom_benchmarks

    made = write_phantom_benchmarks(options.out, options.count, options.seed, image_size=options.image_size)
    done = "wrote" if made.written else "already complete:"
    questions = ", ".join(f"{name} {number}" for name, number in made.rows.items())
    print(f"{done} {made.images} images in {made.folder}; questions: {questions}")
