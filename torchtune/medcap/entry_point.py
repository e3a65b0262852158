"""What starts a recipe: its command line, packaged configurations by name, and its end in one clear line."""

from __future__ import annotations

import difflib
import functools
import gc
import os
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from medcap.configs import packaged_configs
from medcap.configuration import C, check
from medcap.errors import UserError
from medcap.legacy.commands import with_unpacked_samples
from medcap.merge_overrides import override
from medcap.reporting import run_program


def recipe(keys: type[C], flags: tuple[str, ...] = ()) -> Callable[[Callable[[C], Any]], Callable[[], Any]]:
    """Make a function the entry point of a recipe.

    ``--config medcap/FOLDER/NAME`` finds a packaged configuration, ``key=value`` overrides it as in torchtune, every
    key is checked against ``keys``, and a :class:`UserError` from anywhere ends the program with its one line on
    standard error and status 2.

    Args:
        keys: everything that the recipe reads.
        flags: prefixes of further boolean keys, such as ``test_``, that the recipe itself checks.

    Returns:
        A decorator.
    """

    def decorate(main: Callable[[C], Any]) -> Callable[[], Any]:
        @functools.wraps(main)
        def entry() -> Any:
            def program() -> NoReturn:
                cfg = read_arguments(sys.argv[1:], keys, flags, main.__doc__)
                # A collection that walks through all objects of the imports takes 0.2 s, in the middle of a step.
                if not gc.get_freeze_count():
                    gc.freeze()
                sys.exit(main(cfg))

            run_program(program, [Path(sys.argv[0]).name, *sys.argv[1:]])

        # For programs that start recipes and want to find mistakes before that.
        named: Any = entry
        named.rules = (keys, flags)
        return named

    return decorate


def read_arguments(
    arguments: list[str], keys: type[C], flags: tuple[str, ...] = (), description: str | None = None
) -> C:
    """Read a recipe's command line.

    Args:
        arguments: ``--config`` and ``key=value``, as for :func:`recipe`.
        keys: everything that the recipe reads.
        flags: prefixes of keys that are let through.
        description: what ``--help`` prints.

    Returns:
        The checked configuration.

    Raises:
        UserError: if the file or an override cannot be read, or a key is wrong.
        SystemExit: after ``--help``.
    """
    from torchtune.config._parse import TuneRecipeArgumentParser

    parser = TuneRecipeArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    try:
        values, words = parser.parse_known_args(_find_packaged(list(arguments)))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"the command line or the config file cannot be read: {error}") from error
    return check(override(vars(values), with_unpacked_samples(words)), keys, flags)


def _find_packaged(arguments: list[str]) -> list[str]:
    if "--config" not in arguments or arguments[-1] == "--config":
        raise UserError(
            "name a configuration: --config FILE.yaml or --config medcap/FOLDER/NAME (medcap ls lists them)"
        )
    position = arguments.index("--config") + 1
    name = arguments[position] = os.path.expanduser(arguments[position])
    if not Path(name).is_file():
        packaged = packaged_configs()
        if name.removesuffix(".yaml") not in packaged:
            near = difflib.get_close_matches(name, packaged, n=1, cutoff=0.4)
            raise UserError(
                f"--config {name}: neither a file nor a packaged configuration"
                + (f"; did you mean {near[0]}?" if near else "; medcap ls lists them")
            )
        arguments[position] = str(packaged[name.removesuffix(".yaml")])
    return arguments
