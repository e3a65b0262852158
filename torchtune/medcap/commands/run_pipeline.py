"""``medcap run PIPELINE.yaml``: several recipes one after another, each building on those before it."""

from __future__ import annotations

import argparse

HELP = "run the stages of a pipeline that are not done"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap run``.
    """
    parser.add_argument("pipeline", metavar="PIPELINE", help="YAML file, or a packaged one: medcap ls lists them")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="overrides of the file, such as output_dir=runs/first"
    )
    parser.add_argument(
        "--redo",
        action="store_true",
        help="run stages with changed settings again, trainings from the beginning",
    )
    parser.add_argument("--check", action="store_true", help="check the file, print each stage's command, run nothing")


def run(options: argparse.Namespace) -> None:
    """Run the pipeline and print the results of its stages; with ``--check`` print their commands.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: see :func:`medcap.pipeline.run.run_pipeline`.
    """
    if options.check:
        from medcap.pipeline.definition import read_pipeline

        for stage in read_pipeline(options.pipeline, options.overrides).stages:
            print(f"[{stage.name}] {' '.join(stage.words)}")
        return
    from medcap.pipeline.run import run_pipeline

    run_pipeline(options.pipeline, options.overrides, options.redo)
