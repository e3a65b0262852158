"""Find, check and call what a ``_component_`` names."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from medcap.argument_types import convert
from medcap.errors import UserError


def find_component(name: str, path: str) -> Callable[..., Any]:
    """Import what a dotted name stands for.

    Raises:
        UserError: if there is no function or class of that name; the message names the key ``path``.
    """
    module, _, attribute = name.rpartition(".")
    if not module:
        raise UserError(f"{path}={name} must be a dotted name, such as medcap.models.mlp")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a module does when it is imported
        names = dir(sys.modules[module]) if module in sys.modules else ()
        near = difflib.get_close_matches(attribute, names, n=1)
        hint = f"; did you mean {module}.{near[0]}?" if near else ""
        raise UserError(f"{path}={name} cannot be found: {error}{hint}") from error
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
        arguments: arguments from the configuration.
        path: the key that holds them.
        passed: leading arguments that the caller gives.
        given: keyword arguments that the caller gives.

    Returns:
        The arguments, of the types that the component's hints name.

    Raises:
        UserError: naming each key that is unknown or missing, or whose value is of another type.
    """
    try:
        parameters = list(inspect.signature(component).parameters.values())[passed:]
    except (TypeError, ValueError):  # written in C, without a signature
        return dict(arguments)
    parameters = [parameter for parameter in parameters if parameter.name not in given]
    names = [parameter.name for parameter in parameters]
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    owner = getattr(component, "__name__", path)
    unknown = [name for name in arguments if name not in names and not takes_any]
    mistakes = [unknown_key(name, names, f"{path}.", owner) for name in unknown]
    # A key that is misspelt is missing under its own name too.
    for parameter in () if unknown else parameters:
        required = parameter.default is parameter.empty and parameter.kind in (
            parameter.POSITIONAL_OR_KEYWORD,
            parameter.KEYWORD_ONLY,
        )
        if required and parameter.name not in arguments:
            mistakes.append(f"{path}.{parameter.name} is missing: add {path}.{parameter.name}=...")
    known = {parameter.name: parameter for parameter in parameters}
    found = dict(arguments)
    for name in [name for name in arguments if name in known]:
        try:
            found[name] = convert(arguments[name], known[name], component, f"{path}.{name}")
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("; ".join(mistakes))
    return found


def build(node: Mapping[str, Any], *arguments: Any, key: str) -> Any:
    """Call a checked component with leading arguments and its own.

    Args:
        node: ``_component_`` and its arguments.
        arguments: leading ones.
        key: key of the configuration, that holds the node.

    Returns:
        The component's result.

    Raises:
        UserError: if a component of another package refuses its arguments, whatever it raises then; our own say what
            is wrong themselves, and anything else is a fault of theirs.
    """
    options = dict(node)
    name = options.pop("_component_")
    component = find_component(name, f"{key}._component_")
    try:
        return component(*arguments, **options)
    except Exception as error:
        if isinstance(error, UserError) or name.startswith("medcap."):
            raise
        plain = isinstance(error, TypeError | ValueError)
        raise UserError(f"{key}: {error if plain else repr(error)} (from {name})") from error


def unknown_key(name: str, known: Iterable[str], prefix: str, owner: str | None = None) -> str:
    """Word a refusal of a key, with the nearest known one, or what the component that owns the keys takes."""
    known = [*known]
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"unknown key {prefix}{name}: did you mean {prefix}{near[0]}?"
    takes = f": {owner} takes {', '.join(known) or 'none'}; ~{prefix}{name} takes it out of a configuration"
    return f"unknown key {prefix}{name}{': docs/keys.md lists the keys' if owner is None else takes}"
