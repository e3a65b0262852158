"""``medcap leakcheck TRAIN TEST``: are test images in the training set?"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from medcap.commands.arguments import add_image_root
from medcap.errors import UserError
from medcap.plurals import none_of

if TYPE_CHECKING:
    from medcap.datasets.leakage.image_hashes import HashedImage
    from medcap.datasets.leakage.image_sources import ImageFile
    from medcap.datasets.leakage.search import ImageSet


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap leakcheck``.
    """
    kinds = "a JSON or JSONL data file, or a folder of images"
    parser.add_argument("train", type=Path, metavar="TRAIN", help=kinds)
    parser.add_argument("test", type=Path, metavar="TEST", help=kinds)
    add_image_root(parser)
    parser.add_argument(
        "--distance",
        type=int,
        default=8,
        metavar="N",
        help="bits of 64 that may differ, and 6 N of 256; 0 finds next to exact copies (8)",
    )
    parser.add_argument("--processes", type=int, metavar="N", help="processes that hash images (one a processor)")
    parser.add_argument("--json", type=Path, metavar="OUT", help="write everything that was found to a JSON file")


def run(options: argparse.Namespace) -> None:
    """Look for test images in the training set and print what is found.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if a source cannot be read or holds no readable image.
        SystemExit: with status 1 if a test image is in the training set.
    """
    from medcap.datasets.leakage.report import Findings
    from medcap.datasets.leakage.search import ImageSet, find_leaks
    from medcap.files import keep_inputs, plain, write_json

    if not 0 <= options.distance <= 64:
        raise UserError(f"--distance {options.distance} must be 0 to 64")
    if options.processes is not None and options.processes < 1:
        raise UserError(f"--processes {options.processes} must be at least 1")
    if options.json:
        keep_inputs("--json", options.json, options.train, options.test, use="searched")
    train, test = ImageSet(str(options.train)), ImageSet(str(options.test))
    # The smaller set is held; of the larger, only what matches it.
    wanted = list(test.usable(_hashed(options.test, options, "test images")))
    _check_read(test)
    leakage = find_leaks(train.usable(_hashed(options.train, options, "training images")), wanted, options.distance)
    _check_read(train)
    findings = Findings(train, test, leakage, options.distance)
    print(findings.text())
    if options.json:
        try:
            write_json(options.json, plain(findings.as_dict()))
        except OSError as error:
            raise UserError(f"--json {options.json} cannot be written: {error.strerror}") from error
    if leakage.leaks:
        raise SystemExit(1)


def _hashed(source: Path, options: argparse.Namespace, label: str) -> Iterable[HashedImage | ImageFile]:
    from tqdm import tqdm

    from medcap.datasets.leakage.image_hashes import hash_images
    from medcap.datasets.leakage.image_sources import list_images

    images = hash_images(list_images(source, options.image_root), options.processes)
    return tqdm(images, desc=label, unit=" images", delay=1, mininterval=1)


def _check_read(images: ImageSet) -> None:
    if images.images == 0:
        raise UserError(
            f"{images.source}: {none_of(images.unreadable, 'image')} can be read; the first:"
            f" {images.problems[0][1]} (name the images' folder by --image-root)"
        )
