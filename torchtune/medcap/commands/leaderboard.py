"""``medcap leaderboard RESULTS.csv...``: a page that ranks runs."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "a page that ranks the runs of results.csv files"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap leaderboard``.
    """
    parser.add_argument(
        "tables", type=Path, metavar="RESULTS.csv", nargs="+", help="tables that runs wrote, or their folders"
    )
    parser.add_argument("--out", type=Path, default=Path("leaderboard.html"), help="the page (leaderboard.html)")
    parser.add_argument("--title", default="Leaderboard", help="its title (Leaderboard)")


def run(options: argparse.Namespace) -> None:
    """Write the page.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: if a table cannot be read, no run has a score, or the page cannot be written.
    """
    from medcap.errors import UserError
    from medcap.evaluation.leaderboard import leaderboard
    from medcap.files import keep_inputs

    # A folder stands for the table in it.
    keep_inputs("--out", options.out, *options.tables, *(table / "results.csv" for table in options.tables))
    page = leaderboard(options.tables, options.title)
    try:
        page.write(options.out)
    except OSError as error:
        raise UserError(f"--out {options.out} cannot be written: {error.strerror}") from error
    print(options.out)
