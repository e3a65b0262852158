"""``medcap retrieve build`` and ``medcap retrieve augment``: example images for segmentation by example."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from medcap.commands.arguments import add_image_root, positive
from medcap.errors import UserError
from medcap.plurals import counted

if TYPE_CHECKING:
    from medcap.retrieval.candidates import Failure

HELP = "find example images with masks for each row: segmentation by example"
_MOST_SHOWN = 10  # failures; all of them are in a file
_LARGE = 1_000_000  # candidates


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap retrieve``.
    """
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    build = actions.add_parser("build", help="make an index of images with masks")
    build.add_argument("source", type=Path, metavar="FILE", help="JSON or JSONL rows with an image and a mask")
    build.add_argument("--tower", required=True, metavar="NAME", help="what vision= takes, or a run's folder")
    build.add_argument(
        "--keep", nargs="+", default=[], metavar="KEY", help="keys of the rows, such as the organ, for augment --same"
    )
    augment = actions.add_parser("augment", help="write rows with the nearest images of an index as examples")
    augment.add_argument("source", type=Path, metavar="FILE", help="JSON or JSONL rows with a query image")
    augment.add_argument("--out", type=Path, required=True, metavar="OUT", help="a .json or .jsonl file to write")
    augment.add_argument("--tower", metavar="NAME", help="the index's tower, where it is now (as the index names it)")
    augment.add_argument("--top-k", type=int, default=3, choices=(1, 2, 3), metavar="K", help="examples, 1 to 3 (3)")
    augment.add_argument(
        "--exclude-patient", action="store_true", help="take no example of the query's patient (the query is never one)"
    )
    augment.add_argument(
        "--same",
        nargs="+",
        default=[],
        metavar="KEY",
        help="keys whose values an example must share",
    )
    augment.add_argument("--faiss", action="store_true", help="search a large index by faiss, which may miss some")
    for action in (build, augment):
        action.add_argument("--index", type=Path, required=True, metavar="FOLDER", help="folder of the index")
        action.add_argument("--patient-key", default="patient", metavar="KEY", help="key of the patient (patient)")
        add_image_root(action)
        action.add_argument("--batch-size", type=positive, default=64, metavar="N", help="images encoded at once (64)")
        action.add_argument("--device", default="auto", help="auto, cpu or cuda (auto)")


def run(options: argparse.Namespace) -> None:
    """Build an index, or write rows with examples.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if the tower, the index or the rows cannot be used.
    """
    if options.action == "build":
        _build(options)
    else:
        _augment(options)


def _build(options: argparse.Namespace) -> None:
    from medcap.checkpoints.build_model import choose_device
    from medcap.data.images.reader import ImageReader
    from medcap.data.images.roots import LimitKeys
    from medcap.retrieval.build import build_index
    from medcap.retrieval.index import FAILURES
    from medcap.retrieval.tower import RetrievalTower

    reader = ImageReader(_roots(options), keys=LimitKeys("--image-root", None))
    tower = RetrievalTower(options.tower, choose_device(options.device))
    built = build_index(
        options.source, tower, options.index, reader, options.patient_key, options.keep, options.batch_size
    )
    _tell(built.failures, "left out", options.index / FAILURES)
    what = f"{counted(built.candidates, 'mask')} of {counted(built.images, 'image')}"
    print(f"{options.index}: {what}, features of {tower.name}")


def _augment(options: argparse.Namespace) -> None:
    from medcap.checkpoints.build_model import choose_device
    from medcap.data.images.reader import ImageReader
    from medcap.data.images.roots import LimitKeys
    from medcap.files import keep_inputs
    from medcap.retrieval.augment import Choice, augment
    from medcap.retrieval.index import read_index, write_failures
    from medcap.retrieval.tower import RetrievalTower

    if options.out.suffix not in (".json", ".jsonl"):
        raise UserError(f"--out {options.out} must end in .json or .jsonl")
    keep_inputs("--out", options.out, options.source)
    index = read_index(options.index)
    if len(index.candidates) >= _LARGE and not options.faiss:
        count = len(index.candidates)
        print(f"note: the index has {count:,} candidates: --faiss is faster, and may miss some", file=sys.stderr)
    tower = RetrievalTower(options.tower or str(index.tower["name"]), choose_device(options.device))
    reader = ImageReader(_roots(options), keys=LimitKeys("--image-root", None))
    same = tuple(options.same)
    choice = Choice(options.top_k, options.exclude_patient, same, options.patient_key, options.faiss)
    done = augment(options.source, index, tower, options.out, reader, choice, options.batch_size)
    if done.failures:
        path = options.out.with_name(f"{options.out.stem}_failures.jsonl")
        write_failures(path, done.failures)
        _tell(done.failures, "written as they were", path)
    if done.fewer:
        fewer = f"{counted(done.fewer, 'row')} with fewer than {options.top_k} examples"
        print(f"note: {fewer}: no more are left", file=sys.stderr)
    if done.outside:
        common = os.path.commonpath(done.outside)
        print(f"note: files lie outside {options.out.parent}: add {common} to dataset.image_roots", file=sys.stderr)
    print(f"{options.out}: {counted(done.rows, 'row')}, {done.with_examples:,} with examples from {options.index}")


def _roots(options: argparse.Namespace) -> list[Path]:
    return [options.source.parent, Path.cwd(), *options.image_root]


def _tell(failures: Sequence[Failure], what: str, path: Path) -> None:
    for failure in failures[:_MOST_SHOWN]:
        print(f"{what}: {failure.name}: {failure.reason}", file=sys.stderr)
    if failures:
        print(f"{len(failures):,} {what}; all of them are in {path}", file=sys.stderr)
