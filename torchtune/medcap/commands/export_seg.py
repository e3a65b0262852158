"""``medcap export-seg FILE --out FOLDER``: the masks of answers as DICOM segmentations."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medcap.errors import UserError

HELP = "write the masks of answers about DICOM images as DICOM segmentations (DICOM-SEG)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap export-seg``.
    """
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="predictions*.jsonl of a run, or what medcap score reads"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for a file a row")
    parser.add_argument(
        "--images",
        type=Path,
        action="append",
        metavar="DIR",
        help="folder of the images, may be repeated (the file's own folder)",
    )


def run(options: argparse.Namespace) -> None:
    """Write the segmentations, and print how many there are.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if the file cannot be read, highdicom is not installed, or nothing could be written.
    """
    from medcap.data.images.reader import ImageReader
    from medcap.data.images.roots import LimitKeys
    from medcap.export.dicom_seg import write_segmentations
    from medcap.scoring.answers import read_answers

    reader = ImageReader(options.images or [options.file.parent], keys=LimitKeys("--images", None))
    written, notices = write_segmentations(read_answers(options.file), options.out, reader)
    if not written:
        raise UserError(f"nothing was written: {notices[0]}" + ("; ..." if len(notices) > 1 else ""))
    for notice in notices:
        print(f"note: {notice}", file=sys.stderr)
    print(f"wrote {len(written)} segmentation{'s' if len(written) > 1 else ''} in {options.out}")
