"""``medcap download``: fetch data sets from where their authors published them."""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from medcap.commands.arguments import positive
from medcap.datasets.download.elsewhere import ELSEWHERE
from medcap.datasets.download.sources import SOURCES, Source
from medcap.errors import UserError
from medcap.plurals import counted

HELP = "fetch a data set to where converters and tasks look for it"
_ROUTES = ("figures", "tars")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap download``.
    """
    parser.add_argument("name", nargs="?", metavar="NAME", help="a data set; --list shows them")
    parser.add_argument("--list", action="store_true", help="list the data sets, or with NAME the files of one")
    parser.add_argument(
        "--data-dir", type=Path, default=Path("datasets"), metavar="DIR", help="folder of all downloads (./datasets)"
    )
    parser.add_argument("--files", nargs="+", default=[], metavar="PATTERN", help="only these files ('busi_*.npz')")
    parser.add_argument("--mirror", default="", metavar="URL", help="takes the place of https://host in every address")
    parser.add_argument("--workers", type=positive, default=4, help="files or articles at a time (4)")
    parser.add_argument("--keep-archives", action="store_true", help="keep archives that have been unpacked")
    parser.add_argument("--verify", action="store_true", help="compare checksums of files that are there already")
    images = parser.add_argument_group("llava-med-images")
    images.add_argument(
        "--only",
        type=Path,
        nargs="+",
        default=[],
        metavar="FILE",
        help="only the images that rows of these data files name",
    )
    images.add_argument("--urls", type=Path, metavar="FILE", help="the list (DIR/llava_med/llava_med_image_urls.jsonl)")
    images.add_argument(
        "--routes",
        nargs="+",
        choices=_ROUTES,
        default=list(_ROUTES),
        help="figures one by one, or the articles' tar files; both are tried in this order (figures tars)",
    )


def run(options: argparse.Namespace) -> None:
    """List, or fetch.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if there is no such data set, an option is for another one, or it cannot be fetched at all.
        SystemExit: with status 1 if something of it could not be fetched.
    """
    if options.name is None:
        if not options.list:
            raise UserError("medcap download needs a NAME: medcap download --list shows them")
        _list_sources()
        return
    if options.name in ELSEWHERE:
        raise UserError(ELSEWHERE[options.name].line(options.name))
    source = SOURCES.get(options.name)
    if source is None:
        near = difflib.get_close_matches(options.name, [*SOURCES, *ELSEWHERE], n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"there is no data set {options.name} to download: {hint}medcap download --list shows them")
    _check(options, source)
    from medcap.datasets.download import run as downloads
    from medcap.datasets.download.faults import mirror_hint
    from medcap.datasets.download.progress import size_text

    request = downloads.Request(
        name=options.name,
        data_dir=options.data_dir,
        files=tuple(options.files),
        mirror=options.mirror,
        workers=options.workers,
        keep_archives=options.keep_archives,
        verify=options.verify,
        only=tuple(options.only),
        urls=options.urls,
        routes=tuple(options.routes),
    )
    if options.list:
        files = downloads.list_files(request)
        for file in files:
            unpacked = f" (unpacked to {file.pick.folder}/)" if file.pick and file.pick.unpack else ""
            print(f"  {'?' if file.size is None else size_text(file.size):>10}  {file.path}{unpacked}")
        print(f"  {size_text(sum(file.size or 0 for file in files)):>10}  in all")
        return
    summary = downloads.download(request)
    unpacked = f", {counted(summary.unpacked, 'file')} unpacked" if summary.unpacked else ""
    fetched = counted(summary.fetched, "image" if source.figures else "file")
    there = counted(summary.present, "was", "were")
    print(f"fetched {fetched} ({size_text(summary.received)}){unpacked}; {there} there already: {options.data_dir}")
    if summary.failures:
        print(f"{counted(len(summary.failures), 'failure')}: {summary.report}", file=sys.stderr)
        for line in downloads.shown_failures(summary):
            print(line, file=sys.stderr)
        if hint := mirror_hint((reason for _, reason in summary.failures), options.mirror):
            print(hint, file=sys.stderr)
        raise SystemExit(1)
    print(f"next: {', '.join(f'medcap prepare {then}' for then in source.then)}")


def _check(options: argparse.Namespace, source: Source) -> None:
    if source.figures:
        for name in ("files", "verify", "keep_archives", "list"):
            if getattr(options, name):
                raise UserError(f"--{name.replace('_', '-')} is not for {options.name}, which takes --only and --urls")
    elif options.only or options.urls or options.routes != list(_ROUTES):
        raise UserError(f"--only, --urls and --routes are for llava-med-images, not for {options.name}")


def _list_sources() -> None:
    print("DATA SETS (medcap download NAME); the addresses were last known to work as it says, none was tried")
    width = max(map(len, [*SOURCES, *ELSEWHERE]))
    for name, source in SOURCES.items():
        print(f"  {name:<{width}}  {source.what}")
        print(f"  {'':<{width}}    size: {source.size}; licence: {source.licence}")
        print(f"  {'':<{width}}    known: {source.known}")
    print("NOT DOWNLOADED")
    for name, elsewhere in ELSEWHERE.items():
        print(f"  {name:<{width}}  {elsewhere.what}")
        print(f"  {'':<{width}}    why: {elsewhere.why}")
        print(f"  {'':<{width}}    get it from: {elsewhere.where}")
