"""``medcap push DIR OWNER/NAME``: upload an export to the Hugging Face hub."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "upload an exported folder to the Hugging Face hub"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap push``.
    """
    parser.add_argument("folder", type=Path, metavar="DIR", help="as medcap export writes it, model card included")
    parser.add_argument("repository", metavar="OWNER/NAME", help="on the hub; made if it is not there")
    parser.add_argument(
        "--private",
        action="store_true",
        help="only its owner sees it; refused if it is public already",
    )
    parser.add_argument("--revision", metavar="BRANCH", help="branch to upload to, made if it is not there")


def run(options: argparse.Namespace) -> None:
    """Upload and say where.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if the folder holds what does not belong, or the hub cannot be reached or refuses.
    """
    from medcap.export.hub import push_folder

    print(f"uploaded to {push_folder(options.folder, options.repository, options.private, options.revision)}")
