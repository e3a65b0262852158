"""``medcap merge RUN --out DIR``: write a run's language model with its adapters added into the weights."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medcap.commands.export import parse_size

HELP = "write a run's language model with its adapters merged, as a Hugging Face Llama folder"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap merge``.
    """
    parser.add_argument("trained_run", metavar="RUN", help="a run's folder, or one of its checkpoint folders")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; new or empty")
    parser.add_argument(
        "--dtype",
        default="auto",
        choices=("auto", "fp32", "bf16", "fp16"),
        help="of the stored weights. auto: that of the language model's files, to which the sums are rounded; fp32"
        " does not round them (default: auto)",
    )
    parser.add_argument(
        "--shard-size", default="5GB", metavar="SIZE", help="maximum size of a weight file, such as 500MB (5GB)"
    )
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="model keys, such as checkpointer.checkpoint_dir=... if the language model has moved",
    )


def run(options: argparse.Namespace) -> None:
    """Merge, and print the folder that was written.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if the run cannot be merged.
    """
    shard_bytes = parse_size(options.shard_size)
    from medcap.export.merged_language import MergeOptions, merge_run

    chosen = MergeOptions(options.dtype, shard_bytes)
    for notice in merge_run(options.trained_run, options.out, options.overrides, chosen):
        print(f"note: {notice}", file=sys.stderr)
    print(f"wrote {options.out}")
