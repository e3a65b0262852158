"""``medcap prepare reorganize``: copy and rename images by a CSV file, as ColonINST's guideline asks."""

from __future__ import annotations

import argparse
from pathlib import Path

from medcap.errors import UserError
from medcap.plurals import counted

HELP = "copy and rename files by a CSV file, as ColonINST's images"
_SHOWN = 5  # files of a reason on the terminal


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap prepare reorganize``.
    """
    parser.add_argument("--csv", type=Path, required=True, help="file with the columns original and target")
    parser.add_argument("--base-original", type=Path, required=True, metavar="DIR", help="folder of the originals")
    parser.add_argument("--base-target", type=Path, required=True, metavar="DIR", help="folder that is written to")
    parser.add_argument("--overwrite", action="store_true", help="replace targets that are other files")
    parser.add_argument("--list", type=Path, metavar="FILE", help="write what was not copied, a file a line")


def run(options: argparse.Namespace) -> None:
    """Copy, and print what was copied and what was not.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if the CSV file or a folder cannot be used.
        SystemExit: with status 1 if something was not copied.
    """
    from medcap.datasets.preparing.reorganize import OTHER, reorganize
    from medcap.files import keep_inputs, write_text

    if options.base_original.resolve() == options.base_target.resolve():
        raise UserError("--base-original and --base-target are one folder: files are copied into another")
    if options.list is not None:
        keep_inputs("--list", options.list, options.csv)
    result = reorganize(options.csv, options.base_original, options.base_target, options.overwrite)
    copied, there = counted(result.copied, "file"), counted(result.same, "was", "were")
    print(f"copied {copied} to {options.base_target}; {there} there already")
    for reason, names in result.left.items():
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        hint = " (--overwrite replaces them)" if reason == OTHER else ""
        print(f"  not copied {len(names):,}: {reason}{hint}: {', '.join(names[:_SHOWN])}{more}")
    if options.list is not None:
        lines = [f"{reason}\t{name}\n" for reason, names in result.left.items() for name in names]
        write_text(options.list, "".join(lines))
    if result.left:
        raise SystemExit(1)
