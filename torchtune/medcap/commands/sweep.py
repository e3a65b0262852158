"""``medcap sweep SWEEP.yaml``: a grid or a search over any overrides, several trials side by side."""

from __future__ import annotations

import argparse

from medcap.commands.arguments import positive
from medcap.sweep import run as run_sweep

HELP = "train with many settings: a grid or a search, side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap sweep``.
    """
    parser.add_argument("sweep", metavar="SWEEP", help="YAML file, or a packaged one such as medcap/tiny/sweep")
    parser.add_argument(
        "--workers", type=positive, metavar="N", help="trials side by side (the file's workers, else one for each GPU)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with a sweep; an error if there is none yet")
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed")


def run(options: argparse.Namespace) -> None:
    """Run the sweep and print its best trial.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: see :func:`medcap.sweep.run`.
    """
    run_sweep(options.sweep, options.workers, options.resume, options.retry_failed)
