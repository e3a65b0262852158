"""Values of a configuration against the type hints of the function or class that takes them."""

from __future__ import annotations

import enum
import inspect
import math
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from medcap.errors import UserError

# Types that YAML can hold. If a hint names none of them, only the component can judge a value.
_PLAIN = (bool, int, float, str, bytes, list, tuple, dict, set, frozenset, type(None), Path)
_PLAIN_ORIGINS = (list, tuple, dict, set, frozenset, Sequence, Mapping, Iterable, Set)
_LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


def convert(value: Any, parameter: inspect.Parameter, component: Callable[..., Any], key: str) -> Any:
    """Check one argument and give it the type that its hint names, such as a number for the text ``2e-5``.

    Args:
        value: value from the configuration.
        parameter: parameter of the component that takes it.
        component: a function or a class. Without a hint, a default value of a plain type is one.
        key: names the value in messages.

    Returns:
        The value, of the hint's type.

    Raises:
        UserError: if the value is of another type, or outside the range of an ``Annotated`` hint.
    """
    hint = _hint(parameter, component)
    if hint is None or not _is_plain(hint):
        return value
    # Imported here: commands that read no configuration do without it.
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

    try:
        found = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
    except PydanticUserError:  # a hint that pydantic has no rule for
        return value
    except ValidationError as error:
        limits = limit_words(error.errors()[0].get("ctx", {}))
        raise UserError(f"{key}={value!r} must be {limits or 'of type ' + _shown(hint)}") from None
    # true is not the number 1.
    if isinstance(value, bool) and not isinstance(found, bool):
        raise UserError(f"{key}={value!r} must be of type {_shown(hint)}")
    if isinstance(found, float) and not math.isfinite(found):
        raise UserError(f"{key}={value!r} must be a finite number")
    return found if isinstance(found, bool | int | float | str | list | tuple | dict) else value


def limit_words(limits: Mapping[str, Any]) -> str:
    """Say the limits of a number, such as "at least 1"; empty without any.

    Args:
        limits: pydantic's name of a limit -> number.
    """
    # Pydantic makes floats of a float's limits.
    numbers = {name: int(limit) if limit == int(limit) else limit for name, limit in limits.items() if name in _LIMITS}
    return " and ".join(f"{_LIMITS[name]} {number}" for name, number in numbers.items())


def _hint(parameter: inspect.Parameter, component: Callable[..., Any]) -> Any:
    """Return the type of a parameter; None where it is not known."""
    hint, default = parameter.annotation, parameter.default
    if hint is parameter.empty:
        return _hint_of_default(default)
    if isinstance(hint, str):
        names = vars(sys.modules.get(getattr(component, "__module__", ""), typing))
        holder = types.SimpleNamespace(__annotations__={"hint": hint})
        try:
            hint = typing.get_type_hints(holder, dict(names), include_extras=True)["hint"]
        except (NameError, TypeError, AttributeError, SyntaxError):  # names that only a type checker imports
            return None
    return hint | None if default is None and hint is not Any else hint


def _hint_of_default(default: Any) -> Any:
    for kind, hint in ((bool, bool), (int, int | float), (float, float), (str, str), ((list, tuple), list)):
        if isinstance(default, kind):
            return hint
    return None


def _is_plain(hint: Any) -> bool:
    """Return whether a value of a YAML file can be what a hint names."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _is_plain(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return any(_is_plain(member) for member in typing.get_args(hint) if member is not type(None))
    if origin is not None:
        return origin is typing.Literal or origin in _PLAIN_ORIGINS
    return isinstance(hint, type) and issubclass(hint, (*_PLAIN, enum.Enum))


def _shown(hint: Any) -> str:
    return inspect.formatannotation(hint).replace("typing.", "").replace("NoneType", "None")
