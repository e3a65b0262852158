"""Describe a ``tune run`` that another program starts, and check its configuration by the rules of its recipe."""

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
    """The parts of a ``tune run`` command line.

    Attributes:
        recipe: path or name of the recipe.
        config: configuration file, or a packaged configuration's name.
        overrides: key -> text of its value.
    """

    recipe: str
    config: str
    overrides: dict[str, str]

    def words(self, own: Mapping[str, str] | None = None, processes: int = 1) -> list[str]:
        """Return the command line, ``tune`` first.

        Args:
            own: further overrides; they win over those of the program.
            processes: number of processes on this machine.
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
        key: key that names the configuration, for messages.

    Returns:
        The checked configuration; None if the recipe does not declare its keys.

    Raises:
        UserError: if there is no such recipe or configuration, or the recipe refuses a value.
    """
    position = words.index("--config")
    module = _recipe_module(words[position - 1])
    rules = getattr(getattr(module, "recipe_main", None), "rules", None)
    if rules is None:
        if not Path(words[position + 1]).is_file():
            raise UserError(f"{key}={words[position + 1]} is not a file: name the configuration of the recipe")
        return None
    return read_arguments(words[position:], *rules)


def written_configuration(name: str) -> Any:
    """Return the values of a configuration file as written, without overrides.

    Args:
        name: a file, or a packaged configuration's name.

    Raises:
        UserError: if the file cannot be read.
    """
    path = packaged_configs().get(name.removesuffix(".yaml"), Path(name))
    return OmegaConf.to_container(load_yaml(path, "configuration"))


def load_yaml(path: Path, what: str) -> DictConfig:
    """Read a YAML file that holds keys.

    Args:
        path: the file.
        what: what the file should be, such as "pipeline", for messages.

    Raises:
        UserError: if the file cannot be read, names a key twice, or does not hold keys and values.
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
    # tune also searches the working directory, where a user may keep a recipe.
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
