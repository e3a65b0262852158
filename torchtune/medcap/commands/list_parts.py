"""``medcap ls datasets``, ``towers`` and ``projectors``: what a configuration or ``medcap prepare`` can name."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Sequence

HELP = "list recipes and packaged configurations, or data sets, towers or projectors"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command line.

    Args:
        parser: parser of ``medcap ls``.
    """
    parser.add_argument(
        "what",
        nargs="?",
        choices=tuple(_LISTS),
        help="what medcap prepare converts, the encoders of vision=, the components of projector=",
    )


def run(options: argparse.Namespace) -> None:
    """Print the list that is asked for.

    Args:
        options: parsed command line.
    """
    _LISTS[options.what]()


def tower_rows() -> list[tuple[str, ...]]:
    """Return the table of the named towers: a row of headings, then a row for each."""
    from medcap.models.towers.named_towers import NAMED_TOWERS

    rows = [("NAME", "PIXELS", "TOKENS", "PARAMETERS", "LIBRARY", "LICENCE", "HUB")]
    for name, tower in NAMED_TOWERS.items():
        size = tower.preprocess.image_size
        parameters = f"{tower.parameters / 1e6:.0f} M"
        rows.append(
            (name, f"{size} x {size}", str(tower.tokens), parameters, tower.library, tower.licence, tower.repository)
        )
    return rows


def _list_towers() -> None:
    print("TOWERS (vision=NAME, or vision.name=NAME with further options; weights from ./models or the hub)")
    _print_table(tower_rows())
    print("FURTHER TOWERS")
    _print_table(
        [
            ("tiny", "starts random and learns in minutes on a CPU; has its sizes as options"),
            ("FOLDER", "of transformers, open_clip or timm, with its preprocessing; a run: its tower"),
            ("owner/name", "a repository of the hub in one of these formats"),
            ("open_clip:NAME[:TAG]", "a model of open_clip's list"),
            ("timm:NAME", "a model of timm's list"),
        ]
    )


def _list_projectors() -> None:
    from medcap import models
    from medcap.models.projectors.registry import PROJECTORS

    print("PROJECTORS (projector=NAME, or projector._component_=NAME and its options)")
    rows = []
    for name in PROJECTORS:
        function = getattr(models, name)
        options = list(inspect.signature(function).parameters)[2:]
        summary = (function.__doc__ or "").partition("\n")[0]
        rows.append((f"medcap.models.{name}", ", ".join(options), summary))
    _print_table(rows)


def _list_datasets() -> None:
    from medcap.commands import prepare

    prepare.list_datasets()


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print(("  " + "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))).rstrip())


_LISTS = {"datasets": _list_datasets, "towers": _list_towers, "projectors": _list_projectors}
