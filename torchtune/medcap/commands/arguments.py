"""Options and kinds of values that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_image_root(parser: argparse.ArgumentParser) -> None:
    """Add ``--image-root``, whose value ``image_root`` is a list."""
    parser.add_argument(
        "--image-root",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="folders and tar files that images of a data file may lie in, beside its own folder and the working one",
    )


def positive(text: str) -> int:
    """An argument's ``type``: a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)
