"""What a recipe accepts on its command line: known keys, packaged configs by name, one clear line for a mistake."""

from __future__ import annotations

import contextlib
import difflib
import functools
import gc
import importlib
import inspect
import math
import os
import sys
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from medcap.argument_types import convert
from medcap.configs import packaged_configs
from medcap.errors import UserError
from medcap.overrides import override
from medcap.reporting import run_program

# Components that documented commands of other projects name, and what does their work here.
COMPONENT_ALIASES = {"torchtune.datasets.chat_dataset": "medcap.datasets.chat_dataset"}


@dataclass(frozen=True)
class Value:
    """A key that holds a plain value.

    Attributes:
        types: what it may be; None is accepted where the default is None.
        default: what it is when absent; ``...`` means that it must be given.
        minimum: smallest allowed number.
        above: number that it must be above.
        maximum: largest allowed number.
        choices: allowed values, if only some are.
        is_path: whether ``~`` at the start of its text, or of the text in it, is the home folder.
    """

    types: tuple[type, ...]
    default: Any = ...
    minimum: float | None = None
    above: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] | None = None
    is_path: bool = False


# A key of random numbers: what NumPy, torch and Python take alike.
SEED = Value((int,), 0, minimum=0, maximum=2**32 - 1)


@dataclass(frozen=True)
class Component:
    """A key that holds a ``_component_`` and its arguments.

    Attributes:
        passed: leading arguments that the recipe gives, so the configuration may not.
        optional: whether the key may be absent or null.
        default: the ``_component_`` if none is named.
        given: keyword arguments that the recipe gives.
        ranges: what some arguments may be, whatever the component says of them.
    """

    passed: int = 0
    optional: bool = False
    default: str | None = None
    given: tuple[str, ...] = ()
    ranges: Mapping[str, Value] = field(default_factory=dict)


@dataclass(frozen=True)
class Section:
    """A key that holds further keys."""

    keys: Mapping[str, Value | Component | Section]


Keys = Mapping[str, Value | Component | Section]


def recipe(keys: Keys, flags: tuple[str, ...] = ()) -> Callable[[Callable[[DictConfig], Any]], Callable[[], Any]]:
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

    def decorate(main: Callable[[DictConfig], Any]) -> Callable[[], Any]:
        @functools.wraps(main)
        def entry() -> Any:
            def program() -> NoReturn:
                cfg = read_arguments(sys.argv[1:], keys, flags, main.__doc__)
                # A collection that walks through all that the imports left behind takes 0.2 s, in the middle of a step.
                if not gc.get_freeze_count():
                    gc.freeze()
                sys.exit(main(cfg))

            run_program(program, [Path(sys.argv[0]).name, *sys.argv[1:]])

        # For programs that start recipes and want to find mistakes before that.
        entry.rules = (keys, flags)
        return entry

    return decorate


def read_arguments(
    arguments: list[str], keys: Keys, flags: tuple[str, ...] = (), description: str | None = None
) -> DictConfig:
    """Return what a recipe makes of a command line.

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
    return check(override(vars(values), words), keys, flags)


def _find_packaged(arguments: list[str]) -> list[str]:
    if "--config" not in arguments or arguments[-1] == "--config":
        raise UserError(
            "name a configuration: --config FILE.yaml or --config medcap/FOLDER/NAME (medcap ls lists them)"
        )
    place = arguments.index("--config") + 1
    name = arguments[place] = os.path.expanduser(arguments[place])
    if not Path(name).is_file():
        packaged = packaged_configs()
        if name.removesuffix(".yaml") not in packaged:
            near = difflib.get_close_matches(name, packaged, n=1, cutoff=0.4)
            raise UserError(
                f"--config {name}: neither a file nor a packaged configuration"
                + (f"; did you mean {near[0]}?" if near else "; medcap ls lists them")
            )
        arguments[place] = str(packaged[name.removesuffix(".yaml")])
    return arguments


def check(cfg: DictConfig, keys: Keys, flags: tuple[str, ...] = ()) -> DictConfig:
    """Check a configuration and fill in what is absent.

    Args:
        cfg: as parsed from the file and the command line.
        keys: what the recipe reads.
        flags: prefixes of keys that are let through.

    Returns:
        A resolved copy in which every key of ``keys`` exists.

    Raises:
        UserError: for an unknown key, a missing or impossible value, a component that does not exist or does not
            take an argument; the message names the key.
    """
    try:
        given = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration refers to something that is not there: {error}") from error
    return OmegaConf.create(_check_section(given, keys, "", flags))


def _check_section(given: dict[str, Any], keys: Keys, prefix: str, flags: tuple[str, ...]) -> dict[str, Any]:
    for name in given:
        if name not in keys and not name.startswith(flags or ("\0",)):
            near = difflib.get_close_matches(name, keys, n=1)
            raise UserError(f"unknown key {prefix}{name}" + (f": did you mean {prefix}{near[0]}?" if near else ""))
    filled = {name: value for name, value in given.items() if name not in keys}
    for name, rule in keys.items():
        path = prefix + name
        if isinstance(rule, Section):
            section = given.get(name) or {}
            if not isinstance(section, dict):
                raise UserError(f"{path} holds further keys ({', '.join(rule.keys)}), not {section!r}")
            filled[name] = _check_section(section, rule.keys, path + ".", ())
        elif isinstance(rule, Component):
            filled[name] = _check_component(given.get(name), rule, path)
        else:
            filled[name] = _check_value(given.get(name, rule.default), rule, path)
    return filled


def _check_value(value: Any, rule: Value, path: str) -> Any:
    if value is ... or (value is None and rule.default is ...):
        raise UserError(f"{path} is missing: add {path}=...")
    if value is None and rule.default is None:
        return None
    if float in rule.types and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if float in rule.types and isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = float(value)  # YAML reads 2e-5 as text
    if not isinstance(value, rule.types) or (isinstance(value, bool) and bool not in rule.types):
        wanted = " or ".join(kind.__name__ for kind in rule.types)
        raise UserError(f"{path}={value!r} must be of type {wanted}")
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        raise UserError(f"{path}={value!r} must be a list of texts")
    if rule.choices is not None and value not in rule.choices:
        raise UserError(f"{path}={value!r} must be one of {', '.join(map(str, rule.choices))}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{path}={value!r} must be a finite number")
    if rule.minimum is not None and value < rule.minimum:
        raise UserError(f"{path}={value!r} must be at least {rule.minimum}")
    if rule.above is not None and value <= rule.above:
        without = ", or null for none" if rule.default is None else ""
        raise UserError(f"{path}={value!r} must be above {rule.above}{without}")
    if rule.maximum is not None and value > rule.maximum:
        raise UserError(f"{path}={value!r} must be at most {rule.maximum}")
    return _expanded(value) if rule.is_path else value


def _expanded(value: Any) -> Any:
    """Return a value with the home folder in place of ``~`` at the start of its text: no shell saw ``key=~/run``."""
    if isinstance(value, list | tuple):
        return [_expanded(item) for item in value]
    if isinstance(value, dict):
        return {key: _expanded(item) for key, item in value.items()}
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


def _check_component(node: Any, rule: Component, path: str) -> dict[str, Any] | None:
    # torchtune turns the override key=null of a component into key._component_=null.
    removed = node is None or (isinstance(node, dict) and node.get("_component_", ...) is None)
    if removed and rule.optional:
        return None
    if isinstance(node, str):
        node = {"_component_": node}
    if node is None and rule.default:
        node = {}
    if not isinstance(node, dict):
        wrong = "is missing" if node is None else f"cannot be {node!r}"
        raise UserError(f"{path} {wrong}: it needs a _component_ and its arguments")
    name = node.get("_component_", rule.default)
    if not isinstance(name, str):
        wrong = "is missing" if name is None else f"must be a dotted name, not {name!r}"
        raise UserError(f"{path}._component_ {wrong}")
    name = COMPONENT_ALIASES.get(name, name)
    component = find_component(name, f"{path}._component_")
    arguments = {key: _expanded(value) for key, value in node.items() if key != "_component_"}
    arguments |= {
        key: _check_value(arguments[key], found, f"{path}.{key}")
        for key, found in rule.ranges.items()
        if key in arguments
    }
    return {"_component_": name, **check_arguments(component, arguments, path, rule.passed, rule.given)}


def find_component(name: str, path: str) -> Callable[..., Any]:
    """Import what a dotted name stands for.

    Raises:
        UserError: if there is no function or class of that name; the message names the key ``path``.
    """
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module does when it is imported
        raise UserError(f"{path}={name} cannot be found: {error}") from error
    if not callable(found):
        raise UserError(f"{path}={name} is not a function or a class")
    return found


def check_arguments(
    component: Callable[..., Any],
    arguments: Mapping[str, Any],
    path: str,
    passed: int = 0,
    given: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Check that a component takes these keyword arguments and lacks none.

    Args:
        component: what will be called.
        arguments: from the configuration.
        path: the key that holds them.
        passed: leading arguments that the caller gives.
        given: keyword arguments that the caller gives.

    Returns:
        The arguments, of the types that the component's hints name.

    Raises:
        UserError: naming the key that is unknown or missing, or whose value is of another type.
    """
    try:
        parameters = list(inspect.signature(component).parameters.values())[passed:]
    except (TypeError, ValueError):  # written in C, without a signature
        return dict(arguments)
    parameters = [parameter for parameter in parameters if parameter.name not in given]
    names = [parameter.name for parameter in parameters]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    for name in arguments:
        if name not in names and not takes_any:
            near = difflib.get_close_matches(name, names, n=1)
            raise UserError(f"unknown key {path}.{name}" + (f": did you mean {path}.{near[0]}?" if near else ""))
    for parameter in parameters:
        required = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if required and parameter.name not in arguments:
            raise UserError(f"{path}.{parameter.name} is missing: add {path}.{parameter.name}=...")
    known = {parameter.name: parameter for parameter in parameters}
    return {
        name: convert(value, known[name], component, f"{path}.{name}") if name in known else value
        for name, value in arguments.items()
    }


def build(node: Mapping[str, Any], *arguments: Any, key: str) -> Any:
    """Call a checked component with leading arguments and its own.

    Args:
        node: ``_component_`` and its arguments.
        arguments: leading ones.
        key: of the configuration, that holds the node.

    Returns:
        What the component returns.

    Raises:
        UserError: if a component of another package refuses its arguments, whatever it raises then; our own say what
            is wrong themselves, and anything else is a fault of theirs.
    """
    options = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    name = options.pop("_component_")
    component = find_component(name, f"{key}._component_")
    try:
        return component(*arguments, **options)
    except Exception as error:
        if isinstance(error, UserError) or name.startswith("medcap."):
            raise
        plain = isinstance(error, TypeError | ValueError)
        raise UserError(f"{key}: {error if plain else repr(error)} (from {name})") from error
