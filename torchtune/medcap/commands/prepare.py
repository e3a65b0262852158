"""``medcap prepare NAME``: a published data set, or data of your own, becomes a training file."""

from __future__ import annotations

import argparse
from typing import Any

from medcap.commands.arguments import positive, seed
from medcap.datasets.conversion.base import Converter
from medcap.datasets.conversion.instructions import KINDS
from medcap.datasets.converters.registry import CONVERTERS
from medcap.errors import UserError

DEFAULT_OUT = "./datasets/medcap"


def add_sources(sources: Any) -> None:
    """Declare a sub-command for each converter.

    Args:
        sources: the sub-parsers of ``medcap prepare``.
    """
    for name, converter in CONVERTERS.items():
        parser = sources.add_parser(name, help=converter.converts, description=f"{converter.converts}.")
        add_arguments(parser, converter)
        parser.set_defaults(run=run, converter=converter)


def add_arguments(parser: argparse.ArgumentParser, converter: type[Converter]) -> None:
    """Declare the command line of one converter.

    Args:
        parser: parser of ``medcap prepare NAME``.
        converter: what it runs.
    """
    default = converter.default_data
    told = f"folder that the downloads are in ({default})" if default else "folder that the images are in"
    parser.add_argument("--data-dir", default=default, metavar="DIR", help=told)
    parser.add_argument(
        "--out", default=DEFAULT_OUT, help=f"folder, or the file itself, ending in .jsonl or .json ({DEFAULT_OUT})"
    )
    parser.add_argument("--limit", type=positive, metavar="N", help="rows of each file at most")
    parser.add_argument(
        "--keep-missing", action="store_true", help="keep rows whose image is not there, as where it is in a tar file"
    )
    if converter.captions:
        parser.add_argument(
            "--instruction",
            choices=KINDS,
            default="none",
            help="what the user says before a caption: nothing, any instruction of a list, or its first (none)",
        )
        parser.add_argument("--seed", type=seed, default=0, help="of --instruction random (0)")
    converter.add_arguments(parser)


def run(options: argparse.Namespace) -> None:
    """Convert and print what was written and what was left out.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if a source is missing or damaged, nothing of it can be used, or two options contradict each other.
    """
    from medcap.datasets.conversion.run import convert, summary

    instruction = getattr(options, "instruction", "none")
    if instruction != "none" and (getattr(options, "question", None) or getattr(options, "question_column", None)):
        raise UserError(f"--instruction {instruction} stands before captions: leave it out where there is a question")
    data = options.data_dir or ""
    written = convert(
        options.converter.from_options(options),
        data,
        options.out,
        instruction=instruction,
        seed=getattr(options, "seed", 0),
        limit=options.limit,
        keep_missing=options.keep_missing,
    )
    for file in written:
        print(summary(file, data))


def list_datasets() -> None:
    """Print each converter, what it converts and what is to be downloaded for it."""
    print("DATASETS (medcap prepare NAME [--data-dir ./datasets] [--out ./datasets/medcap]; --help for the options)")
    for name, converter in CONVERTERS.items():
        print(f"  {name:<24} {converter.converts}")
        print(f"  {'':<24} {converter.download}")
