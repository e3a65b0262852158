"""Options and kinds of values that several commands have."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from medcap.errors import UserError

# Largest seed that NumPy's older generators take, and so torch, Optuna and the recipes' key ``seed``.
MAX_SEED = 2**32 - 1
# Options whose values are not paths, whatever they begin with.
_TEXTS = ("api_key", "question", "system")
# Keys of the evaluation that are options of commands.
_OPTIONS = ("compile", "cuda_graphs")


def add_image_root(parser: argparse.ArgumentParser) -> None:
    """Add ``--image-root``, whose value ``image_root`` is a list."""
    parser.add_argument(
        "--image-root",
        type=Path,
        nargs="+",
        action="extend",
        default=[],
        metavar="PATH",
        help="folders and tar files that images of a data file may lie in, beside its own folder and the working one",
    )


def add_without(parser: argparse.ArgumentParser) -> None:
    """Add ``--without``, whose values :func:`model_overrides` turns into a model key."""
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="COMPONENT",
        help="leave out a component of the run, such as llm_lora; may repeat",
    )


def add_cuda_graphs(parser: argparse.ArgumentParser) -> None:
    """Add ``--cuda-graphs``, an option of the generator."""
    parser.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="capture decoding steps as CUDA graphs, which saves launches; not yet measured on a card",
    )


def model_overrides(options: argparse.Namespace) -> list[str]:
    """Return the model keys of a command line: ``key=value`` words and ``--without``."""
    without = [f"without=[{','.join(options.without)}]"] if options.without else []
    return [*options.overrides, *without]


def refuse_options_as_keys(overrides: list[str], options: argparse.Namespace) -> None:
    """Refuse keys that this command has as options, and name the option.

    Args:
        overrides: ``key=value`` words of the command line.
        options: the command's options.

    Raises:
        UserError: if a key is one of the options.
    """
    for key in (word.partition("=")[0] for word in overrides):
        if key in _OPTIONS and hasattr(options, key):
            raise UserError(f"{key}: use --{key.replace('_', '-')}; here it is an option, and no key of a run's model")


def take_mask_from_boxes(overrides: list[str]) -> tuple[list[str], str | None]:
    """Take ``mask_from_boxes=FOLDER`` out of ``key=value`` words: it is no key of a model.

    Args:
        overrides: the words.

    Returns:
        The others, and the folder of a SAM that gives the masks of answers' boxes; None where there is none.
    """
    key = "mask_from_boxes="
    folders = [word.removeprefix(key) for word in overrides if word.startswith(key)]
    left = [word for word in overrides if not word.startswith(key)]
    return left, os.path.expanduser(folders[-1]) if folders and folders[-1] != "null" else None


def positive(text: str) -> int:
    """Read an argument as a whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def seed(text: str) -> int:
    """Read an argument as a number that every random generator takes."""
    if not text.isdecimal() or int(text) > MAX_SEED:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to {MAX_SEED}")
    return int(text)


def expand_home(options: argparse.Namespace) -> None:
    """Replace ``~`` at the start of paths by the home folder, where the shell did not: ``--out=~/run``, ``'~/run'``.

    Args:
        options: changed in place.
    """
    for name, value in vars(options).items():
        if name not in _TEXTS:
            setattr(options, name, _expanded(value))


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    if isinstance(value, Path):
        return value.expanduser()
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value
