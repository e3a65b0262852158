"""Options that several commands have."""

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
