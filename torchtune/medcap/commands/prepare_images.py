"""``medcap prepare images``: images as they come -> pictures of one size, as files or in tar shards."""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medcap.commands.arguments import add_image_root, seed
from medcap.errors import UserError, ViewKeyError

if TYPE_CHECKING:
    from medcap.data.images.views import View

HELP = "DICOM, NIfTI and other images to pictures of one size, as files or in tar shards, with their rows"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to its parser."""
    parser.add_argument(
        "--source",
        type=Path,
        nargs="+",
        required=True,
        metavar="PATH",
        help="folders of images; or one JSON or JSONL file, whose images are prepared; the file is rewritten",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write; new, empty, or to go on with")
    parser.add_argument("--format", choices=("png", "jpeg", "shards"), default="png", help="what to write (png)")
    parser.add_argument("--size", type=int, metavar="N", help="side in pixels (as it is)")
    parser.add_argument(
        "--fit",
        choices=("crop", "squash", "shortest"),
        default="crop",
        help="with --size: short side and centre, both sides, or short side alone (crop)",
    )
    parser.add_argument(
        "--pad-above",
        type=float,
        default=1.8,
        metavar="RATIO",
        help="pad to a black square where one side is longer than the other by more than this; 0 never (1.8)",
    )
    parser.add_argument(
        "--window",
        type=float,
        nargs="+",
        metavar=("CENTER", "WIDTH"),
        help="window in the image's units, or three for the three channels; or the number, from 0, of one in the DICOM"
        " file (the file's first)",
    )
    parser.add_argument(
        "--frames",
        default="middle",
        metavar="WHICH",
        help="DICOM frames, NIfTI slices: all, middle, N, 0,5,9 or 8even for eight that are evenly spread (middle)",
    )
    parser.add_argument(
        "--axis", choices=("sagittal", "coronal", "axial"), default="axial", help="of NIfTI slices (axial)"
    )
    add_image_root(parser)
    parser.add_argument("--shard-size", type=int, default=1000, metavar="N", help="rows or images a shard (1000)")
    parser.add_argument("--shuffle", type=seed, metavar="SEED", help="shuffle before writing shards (keep the order)")
    parser.add_argument("--workers", type=int, metavar="N", help="processes (one a processor)")
    parser.add_argument("--max-pixels", type=int, default=50_000_000, help="of an image, refused above (50000000)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first images, or rows")
    parser.add_argument("--overwrite", action="store_true", help="start over: remove what was prepared before")


def run(options: argparse.Namespace) -> None:
    """Prepare the images and say what there is.

    Args:
        options: what :func:`add_arguments` adds.

    Raises:
        UserError: for an impossible option, a source that cannot be read, or a folder that holds anything else.
        SystemExit: with status 1 if not a single image could be prepared.
    """
    from medcap.datasets.preparing.request import FAILURES, Request
    from medcap.datasets.preparing.run import prepare_images
    from medcap.datasets.preparing.worker import Settings
    from medcap.workers import num_processors

    _check(options)
    shards = options.format == "shards"
    settings = Settings(
        size=options.size,
        fit=options.fit,
        pad_above=options.pad_above,
        file_format="png" if shards else options.format,
        view=_view(options),
    )
    request = Request(
        sources=options.source,
        out=options.out,
        settings=settings,
        shards=shards,
        shard_size=options.shard_size,
        image_roots=options.image_root,
        workers=options.workers or num_processors(),
        max_pixels=options.max_pixels,
        overwrite=options.overwrite,
        limit=options.limit,
        shuffle=options.shuffle,
    )
    summary = prepare_images(request)
    already = f" ({summary.already} were there already)" if summary.already else ""
    parts = [f"prepared {summary.prepared} of {summary.sources} images{already}"]
    if summary.pictures != summary.prepared:
        parts.append(f"{summary.pictures} pictures")
    if summary.rows is not None:
        parts.append(f"{summary.rows} rows")
    if summary.others:
        parts.append(f"{summary.others} other files left out")
    print(f"{', '.join(parts)}: {options.out}")
    if summary.failures:
        print(f"{summary.failures} failures: {options.out / FAILURES}", file=sys.stderr)
    if not summary.prepared and not summary.rows:
        raise SystemExit(1)


def _check(options: argparse.Namespace) -> None:
    for name, least in (("size", 1), ("shard_size", 1), ("workers", 1), ("max_pixels", 1), ("limit", 1)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise UserError(f"--{name.replace('_', '-')} {value} must be at least {least}")
    if options.size is not None and options.size > 16_384:
        raise UserError(f"--size {options.size} must be at most 16384")
    if options.pad_above and not options.pad_above >= 1:
        raise UserError(f"--pad-above {options.pad_above:g} must be a ratio from 1, or 0 for never")
    if options.image_root and not options.source[0].is_file():
        raise UserError("--image-root is for the images of rows: with folders, name them in --source")


def _window(numbers: list[float] | None) -> Any:
    """Return the numbers as a row holds them."""
    if numbers is None:
        return None
    if len(numbers) == 1 and numbers[0].is_integer() and numbers[0] >= 0:
        return int(numbers[0])
    pairs = [numbers[start : start + 2] for start in range(0, len(numbers), 2)]
    if len(numbers) not in (2, 6) or not all(math.isfinite(center) and 0 < width < math.inf for center, width in pairs):
        raise UserError(
            "--window takes a centre and a width above 0, three of them for the three channels, or one number from 0 of"
            " a window in the file"
        )
    return pairs[0] if len(pairs) == 1 else pairs


def _view(options: argparse.Namespace) -> View:
    from medcap.data.images.view_keys import read_view, word_value

    given = {"window": _window(options.window), "axis": options.axis}
    try:
        return read_view(given | {"frames": word_value("frames", options.frames)})
    except ViewKeyError as error:
        raise UserError(f"--{error.key} {getattr(options, error.key)} {error.rule}") from None
