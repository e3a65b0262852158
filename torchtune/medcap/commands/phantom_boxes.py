"""``medcap prepare phantom-boxes``: drawn images with several lesions, and rows that ask for and name boxes."""

from __future__ import annotations

import argparse
from pathlib import Path

from medcap.commands.arguments import positive, seed
from medcap.data.boxes.notations import NOTATIONS

HELP = "drawn images with two or three lesions, their boxes and masks, and rows of every task about boxes and regions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--count", type=positive, required=True, help="number of images")
    parser.add_argument("--seed", type=seed, required=True, help="never use one seed for training and testing")
    parser.add_argument("--image-size", type=positive, nargs="+", default=[64], help="side, or width and height (64)")
    parser.add_argument(
        "--lesions", type=positive, nargs="+", default=[2], help="lesions of an image; of several numbers any (2)"
    )
    parser.add_argument(
        "--box-format", choices=NOTATIONS, default="thousandths", help="of boxes in texts (thousandths)"
    )
    parser.add_argument(
        "--short-answers", action="store_true", help='"ring <BOX>." instead of "The ring is at <BOX>.", for a box head'
    )


def run(options: argparse.Namespace) -> None:
    """Write the scenes and print what they hold.

    Args:
        options: what :func:`add_arguments` adds.

    Raises:
        UserError: for a number out of range, or a folder that holds anything else.
    """
    from medcap.datasets.phantoms.scene_files import write_scenes
    from medcap.errors import UserError

    if len(options.image_size) > 2:
        raise UserError("--image-size takes one side, or width and height")
    size = (options.image_size[0], options.image_size[-1])
    made = write_scenes(
        options.out, options.count, options.seed, size, options.lesions, options.box_format, options.short_answers
    )
    done = "wrote" if made.written else "already complete:"
    rows = ", ".join(f"{task} {number}" for task, number in made.rows.items())
    print(f"{done} {made.images} images in {made.folder}; rows: {rows}")
