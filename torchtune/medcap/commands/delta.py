"""``medcap delta make`` and ``medcap delta apply``: store a model as differences from its base."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "write a model's weights as differences from its base, and restore them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap delta``.
    """
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    make = actions.add_parser("make", help="write the differences, with the target's other files")
    make.add_argument("--base", type=Path, required=True, metavar="DIR", help="the model that training began from")
    make.add_argument("--target", type=Path, required=True, metavar="DIR", help="the trained model")
    make.add_argument(
        "--dtype",
        default="exact",
        choices=("exact", "fp32", "bf16", "fp16"),
        help="exact: differences of the bits, as large as the target, from which apply restores every number; the"
        " others are differences of the numbers and round; LLaVA's apply_delta reads fp16 (default: exact)",
    )
    apply = actions.add_parser("apply", help="restore a model from its base and a delta, ours or a published one")
    apply.add_argument("--base", type=Path, required=True, metavar="DIR", help="the model that the delta was made from")
    apply.add_argument("--delta", type=Path, required=True, metavar="DIR", help="folder of the delta")
    for action in (make, apply):
        action.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; new or empty")


def run(options: argparse.Namespace) -> None:
    """Make or apply a delta, and print the folder that was written.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if the folders do not belong together.
    """
    if options.action == "make":
        from medcap.export.make_delta import make_delta

        notices = make_delta(options.base, options.target, options.out, options.dtype)
    else:
        from medcap.importing.apply_delta import apply_delta

        notices = apply_delta(options.base, options.delta, options.out)
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
    print(f"wrote {options.out}")
