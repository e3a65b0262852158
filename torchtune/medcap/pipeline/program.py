"""A ``tune run`` that another program starts: its recipe, its configuration, and what its recipe says of them."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from medcap.configs import packaged_configs
from medcap.configuration import Configuration
from medcap.entry_point import read_arguments
from medcap.errors import UserError

RECIPE_FOLDER = "medcap/recipes"


@dataclass(frozen=True)
class Program:
    """A ``tune run``: recipe, configuration, and overrides, key -> text."""

    recipe: str
    config: str
    overrides: dict[str, str]

    def words(self, own: Mapping[str, str] | None = None, processes: int = 1) -> list[str]:
        """Return the command line, ``tune`` first.

        Args:
            own: further overrides, which win.
            processes: processes on this machine.
        """
        launch = ["--nproc_per_node", str(processes)] if processes > 1 else []
        overrides = {**self.overrides, **(own or {})}
        return [
            *("tune", "run", *launch, self.recipe, "--config", self.config),
            *(f"{key}={value}" for key, value in overrides.items()),
        ]


def read_configuration(words: list[str], key: str) -> Configuration | None:
    """Read the configuration of a command line as its recipe will.

    Args:
        words: value of :meth:`Program.words`.
        key: what names the configuration, for messages.

    Returns:
        The checked configuration; None if the recipe does not say what it takes.

    Raises:
        UserError: if there is no such recipe or configuration, or what the recipe says against a value.
    """
    position = words.index("--config")
    module = _recipe_module(words[position - 1])
    rules = getattr(getattr(module, "recipe_main", None), "rules", None)
    if rules is None:
        if not Path(words[position + 1]).is_file():
            raise UserError(f"{key}={words[position + 1]} is not a file")
        return None
    return read_arguments(words[position:], *rules)


def written_configuration(name: str) -> Any:
    """Return the values of a configuration file, as they are written there.

    Args:
        name: a file, or a packaged configuration's name.

    Raises:
        UserError: if it cannot be read.
    """
    path = packaged_configs().get(name.removesuffix(".yaml"), Path(name))
    return OmegaConf.to_container(load_yaml(path, "configuration"))


def load_yaml(path: Path, what: str) -> DictConfig:
    """Read a YAML file that holds keys.

    Args:
        path: the file.
        what: what it should be, for messages.

    Raises:
        UserError: if it cannot be read, names a key twice, or holds something else.
    """
    try:
        content = OmegaConf.load(path)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        mark = getattr(error, "problem_mark", None)
        line = "" if mark is None else f" in line {mark.line + 1}"
        raise UserError(f"{path} cannot be read as YAML: {reason}{line}") from error
    if not isinstance(content, DictConfig):
        raise UserError(f"{path} holds no {what}: it must hold keys and their values (medcap cp has examples)")
    return content


def _recipe_module(recipe: str) -> ModuleType:
    name = recipe.removesuffix(".py").replace("/", ".")
    # As tune does, so that a user's recipe in the working directory is found.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        found = None
    if found is None or found.origin is None:
        near = f"{RECIPE_FOLDER}/{Path(recipe).stem}"
        known = importlib.util.find_spec(near.replace("/", ".")) is not None
        raise UserError(
            f"there is no recipe {recipe}" + (f": did you mean {near}?" if known else "; medcap ls lists them")
        )
    return importlib.import_module(name)
