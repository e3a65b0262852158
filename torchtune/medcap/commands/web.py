"""``medcap web RUN``: the server with a page to look at images, talk to runs and vote."""

from __future__ import annotations

import argparse
from pathlib import Path

from medcap.commands import serve

HELP = "look at images and talk to trained runs in a browser"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap web``.
    """
    serve.add_arguments(parser)
    page = parser.add_argument_group("page")
    page.add_argument(
        "--votes",
        type=Path,
        default=Path("results/votes.jsonl"),
        metavar="FILE",
        help="votes go here, a line each with the question, the answers and the hash of the image"
        " (results/votes.jsonl)",
    )
    page.add_argument("--examples", type=Path, metavar="FOLDER", help="images that visitors may try; at most 24")


def run(options: argparse.Namespace) -> None:
    """Load the runs, then serve the page until a signal comes.

    Args:
        options: see :func:`add_arguments`.

    Raises:
        UserError: see :func:`medcap.commands.serve.run`; or if the votes cannot be written or there are no examples.
    """
    serve.check_installed()
    from medcap.serving.web.votes import VoteLog
    from medcap.serving.web.web_page import find_examples, page_routes

    examples = [] if options.examples is None else find_examples(options.examples)
    votes = VoteLog(options.votes)
    serve.run(options, lambda service, keys: page_routes(service, keys, votes, examples))
