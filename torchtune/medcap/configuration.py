"""What a configuration may hold: keys with types and limits, components with arguments, one clear line for mistakes."""

from __future__ import annotations

import contextlib
import difflib
import os
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    PlainValidator,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError, core_schema

from medcap.argument_types import limit_words
from medcap.errors import UserError
from medcap.instantiate import check_arguments, find_component, unknown_key

# Pydantic's names of a key that is not known.
_UNKNOWN = ("extra_forbidden", "invalid_key")
C = TypeVar("C", bound="Configuration")

# Components that documented commands of other projects name, or that had another name before, and their names here.
COMPONENT_ALIASES = {
    "torchtune.datasets.chat_dataset": "medcap.datasets.chat_dataset",
    "medcap.models.pyramid": "medcap.models.ppc",
}


def _as_number(value: Any) -> Any:
    """Take a whole number and a text such as ``2e-5``, which YAML does not read as a number, for a float."""
    if isinstance(value, int | str) and not isinstance(value, bool):
        with contextlib.suppress(ValueError, OverflowError):
            return float(value)
    return value


def _expanded(value: Any) -> Any:
    """Put the home folder in place of ``~`` at the start of a text: no shell saw ``key=~/run``."""
    if isinstance(value, list | tuple):
        return [_expanded(item) for item in value]
    if isinstance(value, dict):
        return {key: _expanded(item) for key, item in value.items()}
    return os.path.expanduser(value) if isinstance(value, str) and value.startswith("~") else value


HOME_EXPANDED = AfterValidator(_expanded)
Number = Annotated[float, BeforeValidator(_as_number)]
PathText = Annotated[str, HOME_EXPANDED]
# A seed: a number that NumPy, torch and Python all accept.
Seed = Annotated[int, Field(ge=0, le=2**32 - 1)]


class Configuration(BaseModel):
    """Keys with their types, defaults, limits and descriptions; :func:`check` makes one of a YAML file's values."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, validate_default=True, arbitrary_types_allowed=True
    )
    _flags: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _with_sections(cls, given: Any) -> Any:
        """Let a section be absent or null where none of its keys must be given."""
        if not isinstance(given, dict):
            return given
        sections = [name for name, field in cls.model_fields.items() if section_of(field) is not None]
        return given | {name: given.get(name) or {} for name in sections}

    @property
    def flags(self) -> dict[str, Any]:
        """The keys that only their prefix lets through, such as ``test_vqarad``."""
        return self._flags

    def to_yaml(self) -> str:
        """Return the checked values as a YAML file."""
        return OmegaConf.to_yaml(OmegaConf.create(self._flags | self.model_dump()))


def section_of(field: FieldInfo) -> type[Configuration] | None:
    """Return the further keys that a key holds; None for a key that holds a value."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Configuration) else None


@dataclass(frozen=True)
class OneOf:
    """Allow the values of a table that is filled elsewhere, or of several types; another set is a ``Literal``.

    Null stays allowed where the type of the key allows it.

    Attributes:
        choices: the allowed values.
    """

    choices: tuple[Any, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return the schema of the type with a check after it."""
        return core_schema.no_info_after_validator_function(self._checked, handler(source))

    def _checked(self, value: Any) -> Any:
        if value is not None and value not in self.choices:
            raise PydanticCustomError("literal_error", "is none of the choices")
        return value


class Rule(ABC):
    """Makes a key hold what :meth:`checked` accepts."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return a schema that calls :meth:`checked`; what it refuses is collected with the other mistakes."""

        def validate(value: Any, info: ValidationInfo) -> Any:
            try:
                return self.checked(value, f"{(info.context or {}).get('prefix', '')}{info.field_name}")
            except UserError as error:
                raise PydanticCustomError("component", "{words}", {"words": str(error)}) from error

        return PlainValidator(validate).__get_pydantic_core_schema__(source, handler)

    @abstractmethod
    def checked(self, value: Any, path: str) -> Any:
        """Return the checked value of the key ``path``; a ``UserError`` names the key that is wrong."""


@dataclass(frozen=True)
class ComponentRule(Rule):
    """Make a key hold a ``_component_`` and its arguments, checked against the component's signature.

    Attributes:
        passed: leading arguments that the recipe gives, so the configuration may not.
        optional: whether the key may be absent or null.
        default: the ``_component_`` if none is named.
        others: an argument and the ``_component_`` if none is named but this argument is given, each.
        list_argument: the argument that a list in place of a mapping stands for; None refuses a list.
        given: keyword arguments that the recipe gives.
        arguments: what some arguments may be, whatever the component says of them.
    """

    passed: int = 0
    optional: bool = False
    default: str | None = None
    others: tuple[tuple[str, str], ...] = ()
    list_argument: str | None = None
    given: tuple[str, ...] = ()
    arguments: type[Configuration] | None = None

    def checked(self, value: Any, path: str) -> dict[str, Any] | None:
        """Check the value of the key ``path``.

        Returns:
            ``_component_`` and its arguments; None for an optional one that is not wanted.

        Raises:
            UserError: naming the key that is wrong.
        """
        # torchtune turns the override key=null of a component into key._component_=null.
        removed = value is None or (isinstance(value, dict) and value.get("_component_", ...) is None)
        if removed and self.optional:
            return None
        if isinstance(value, str):
            value = {"_component_": value}
        if value is None and self.default:
            value = {}
        if isinstance(value, list) and self.list_argument:
            value = {self.list_argument: value}
        if not isinstance(value, dict):
            wrong = "is missing" if value is None else f"cannot be {value!r}"
            raise UserError(f"{path} {wrong}: it needs a _component_ and its arguments")
        chosen_by, default = next((pair for pair in self.others if pair[0] in value), (None, self.default))
        name = value.get("_component_", default)
        if not isinstance(name, str):
            wrong = "is missing" if name is None else f"must be a dotted name, not {name!r}"
            raise UserError(f"{path}._component_ {wrong}")
        name = COMPONENT_ALIASES.get(name, name)
        component = find_component(name, f"{path}._component_")
        arguments = {key: _expanded(given) for key, given in value.items() if key != "_component_"}
        if chosen_by is not None and self.default is not None and name == default:
            usual = signature(find_component(self.default, path)).parameters
            both = [key for key in arguments if key in usual and key not in signature(component).parameters]
            if both:
                raise UserError(f"{path}.{both[0]} cannot be given beside {path}.{chosen_by}: leave it out")
        if self.arguments is not None:
            limited = {key: value for key, value in arguments.items() if key in self.arguments.model_fields}
            arguments |= _validated(self.arguments, limited, f"{path}.").model_dump(include={*limited})
        return {"_component_": name, **check_arguments(component, arguments, path, self.passed, self.given)}


@dataclass(frozen=True)
class NamedSections(Rule):
    """Make a key hold a list of names, or a mapping from each name to further keys.

    Attributes:
        section: the further keys, all of them optional.
    """

    section: type[Configuration]

    def checked(self, value: Any, path: str) -> list[str] | dict[str, dict[str, Any]]:
        """Check the value of the key ``path``.

        Returns:
            The names, or what is given for each.

        Raises:
            UserError: naming the key that is wrong.
        """
        if isinstance(value, list) and all(isinstance(name, str) for name in value):
            return value
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise UserError(f"{path}={value!r} must be a list of names, or a mapping from names to their keys")
        return _each_checked(self.section, {name: given or {} for name, given in value.items()}, path)


@dataclass(frozen=True)
class SectionList(Rule):
    """Make a key hold a list of mappings that have the same keys.

    Attributes:
        section: the keys of each mapping.
    """

    section: type[Configuration]

    def checked(self, value: Any, path: str) -> list[dict[str, Any]] | None:
        """Check the value of the key ``path``.

        Returns:
            What is given for each mapping; None for null.

        Raises:
            UserError: naming the key that is wrong.
        """
        if value is None:
            return None
        keys = ", ".join(self.section.model_fields)
        if not isinstance(value, list) or not value:
            raise UserError(f"{path}={value!r} must be a list of mappings, each with its keys ({keys})")
        return list(_each_checked(self.section, dict(enumerate(value)), path).values())


def _each_checked(section: type[Configuration], given: Mapping[Any, Any], path: str) -> dict[Any, dict[str, Any]]:
    """Check sections that have the same keys.

    Raises:
        UserError: one line with the mistakes of all of them.
    """
    found, mistakes = {}, []
    for name, value in given.items():
        if not isinstance(value, dict):
            mistakes.append(f"{path}.{name} holds further keys ({', '.join(section.model_fields)}), not {value!r}")
            continue
        try:
            found[name] = _validated(section, value, f"{path}.{name}.").model_dump(exclude_none=True)
        except UserError as error:
            mistakes.append(str(error))
    if mistakes:
        raise UserError("; ".join(mistakes))
    return found


def check(cfg: DictConfig, keys: type[C], flags: tuple[str, ...] = ()) -> C:
    """Check a configuration and fill in what is absent.

    Args:
        cfg: configuration as parsed from the file and the command line.
        keys: what the recipe reads.
        flags: prefixes of keys that are let through.

    Returns:
        The configuration, its interpolations resolved.

    Raises:
        UserError: for unknown keys, missing or impossible values, components that do not exist or do not take an
            argument; one line that names each key that is wrong.
    """
    try:
        given: Any = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"the configuration refers to something that is not there: {error}") from error
    through = {key: given.pop(key) for key in [*given] if key not in keys.model_fields and str(key).startswith(flags)}
    found = _validated(keys, given, flags=flags)
    found._flags = through
    return found


def _validated(keys: type[C], given: dict[str, Any], prefix: str = "", flags: tuple[str, ...] = ()) -> C:
    try:
        return keys.model_validate(given, context={"prefix": prefix})
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A key that is misspelt is missing under its own name too.
        if any(problem["type"] in _UNKNOWN for problem in errors):
            errors = [problem for problem in errors if problem["type"] != "missing"]
        raise UserError("; ".join(_mistakes(keys, given, errors, prefix, flags))) from None


def _with_flags(name: str, flags: tuple[str, ...]) -> list[str]:
    """Return what a misspelt key is with the prefix that its own resembles: test_vqarad for tst_vqarad."""
    start, _, rest = name.partition("_")
    return [f"{near}{rest}" for near in difflib.get_close_matches(f"{start}_", flags, n=1) if rest]


def _mistakes(
    keys: type[Configuration], given: Any, errors: list[ErrorDetails], prefix: str, flags: tuple[str, ...] = ()
) -> list[str]:
    """Say in our words what pydantic found, unknown keys first, each key once."""
    by_name: dict[str, list[ErrorDetails]] = {}
    for error in sorted(errors, key=lambda error: error["type"] not in _UNKNOWN):
        by_name.setdefault(str(error["loc"][0]), []).append(error)
    found = []
    for name, problems in by_name.items():
        key, value, field = prefix + name, given.get(name), keys.model_fields.get(name)
        if field is None:
            found.append(unknown_key(name, [*keys.model_fields, *_with_flags(name, flags)], prefix))
        elif (section := section_of(field)) is not None and len(problems[0]["loc"]) > 1:
            deeper: Any = [problem | {"loc": problem["loc"][1:]} for problem in problems]
            found += _mistakes(section, value or {}, deeper, f"{key}.")
        else:
            found.append(_mistake(key, value, field, problems))
    return found


def _mistake(key: str, value: Any, field: FieldInfo, problems: list[ErrorDetails]) -> str:
    kind, limits = problems[0]["type"], problems[0].get("ctx", {})
    if kind == "component":
        return limits["words"]
    if value is None and field.is_required():
        remedy = f"add {key}=..." if rule_of(field) is None else "it needs a _component_ and its arguments"
        return f"{key} is missing: {remedy}"
    if kind == "model_type" and (section := section_of(field)) is not None:
        return f"{key} holds further keys ({', '.join(section.model_fields)}), not {value!r}"
    if any(isinstance(part, int) for problem in problems for part in problem["loc"]):
        return f"{key}={value!r} must be a list of texts"
    names = type_names(field.annotation)
    value = _as_number(value) if "float" in names else value
    without = ", or null for none" if "gt" in limits and field.default is None else ""
    if kind == "literal_error":
        wanted = f"one of {', '.join(map(str, allowed_values(field)))}"
    elif kind == "finite_number":
        wanted = "a finite number"
    else:
        wanted = limit_words(limits) + without or f"of type {' or '.join(names)}"
    return f"{key}={value!r} must be {wanted}"


def type_names(hint: Any) -> list[str]:
    """Return the names of the types that a hint allows besides null, such as ``str`` and ``list``."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        names = [name for part in typing.get_args(hint) for name in type_names(part)]
        return [name for name in dict.fromkeys(names) if name != "NoneType"]
    if typing.get_origin(hint) is Annotated:
        return type_names(typing.get_args(hint)[0])
    if typing.get_origin(hint) is Literal:
        return list(dict.fromkeys(type(choice).__name__ for choice in typing.get_args(hint)))
    return [(typing.get_origin(hint) or hint).__name__]


def rule_of(field: FieldInfo) -> ComponentRule | None:
    """Return the rule of a key that holds a component; None of another key."""
    return next((rule for rule in field.metadata if isinstance(rule, ComponentRule)), None)


def allowed_values(field: FieldInfo) -> tuple[Any, ...]:
    """Return the values that a key is limited to; empty where it is not."""
    rules = [rule.choices for rule in field.metadata if isinstance(rule, OneOf)]
    return rules[0] if rules else typing.get_args(field.annotation) * (typing.get_origin(field.annotation) is Literal)
