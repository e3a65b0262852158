import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, Optional

import pytest
import torch
from pydantic import Field

from medcap.argument_types import convert
from medcap.errors import UserError


def component(
    count: int = 1,
    rate: float = 0.1,
    packed: bool = False,
    name: str = "a",
    maybe: int | None = 3,
    implicit: int = None,  # noqa: RUF013
    pair: tuple[float, float] = (0.9, 0.99),
    mixed: float | torch.Tensor = 0.1,
    names: list[str] | None = None,
    several: Sequence[int] = (),
    choice: Literal["fast", "slow"] = "fast",
    limited: Annotated[int, Field(ge=1, le=9)] = 1,
    above: Annotated[float, Field(gt=0)] = 1.0,
    old: Optional[int] = 3,  # noqa: UP045
    kind: torch.dtype = torch.float32,
    call: Callable[[int], int] = abs,
    location: Path = Path(),
    later: "NotImported" = None,  # noqa: F821
    written: "list[str] | None" = None,
    flag=False,
    number=0.5,
    whole=3,
    words="b",
    numbers=(0.9, 0.99),
    unknown=None,
):
    """Every kind of hint, and parameters whose default is the only one."""


def converted(name, value):
    return convert(value, inspect.signature(component).parameters[name], component, f"part.{name}")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("count", 5, 5),
        ("count", "5", 5),
        ("count", 320.0, 320),
        ("rate", 1, 1.0),
        ("rate", "2e-5", 2e-5),
        ("packed", "true", True),
        ("packed", 0, False),
        ("name", "x", "x"),
        ("maybe", None, None),
        ("implicit", None, None),
        ("pair", [0.9, "0.5"], (0.9, 0.5)),
        ("mixed", "2e-5", 2e-5),
        ("names", ["a"], ["a"]),
        ("several", [1, 2], [1, 2]),
        ("choice", "slow", "slow"),
        ("limited", 9, 9),
        ("old", None, None),
        # What no YAML value can be, and what is not known, is the component's own business.
        ("kind", "bf16", "bf16"),
        ("call", "abs", "abs"),
        ("later", {"a": 1}, {"a": 1}),
        ("unknown", object, object),
        ("location", "x/y", "x/y"),
        ("written", ["a"], ["a"]),
        ("flag", True, True),
        ("number", "1e-3", 1e-3),
        ("whole", 2.5, 2.5),
        ("numbers", [1, 2], [1, 2]),
    ],
)
def test_values_get_the_type_of_the_hint(name, value, expected):
    found = converted(name, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("count", "abc", "part.count='abc' must be of type int"),
        ("count", None, "part.count=None must be of type int"),
        ("count", 320.5, "part.count=320.5 must be of type int"),
        ("count", True, "part.count=True must be of type int"),
        ("count", [1], r"part.count=\[1\] must be of type int"),
        ("rate", "fast", "must be of type float"),
        ("rate", False, "must be of type float"),
        ("rate", float("nan"), "part.rate=nan must be a finite number"),
        ("rate", ".inf", "must be of type float"),
        ("rate", "inf", "part.rate='inf' must be a finite number"),
        ("packed", "abc", "part.packed='abc' must be of type bool"),
        ("packed", 2, "must be of type bool"),
        ("name", 5, "part.name=5 must be of type str"),
        ("name", ["a", "b"], "must be of type str"),
        ("pair", [0.9], r"part.pair=\[0.9\] must be of type tuple\[float, float\]"),
        ("pair", 0.9, "must be of type tuple"),
        ("mixed", "abc", r"must be of type float \| torch.Tensor"),
        ("names", "folder", r"part.names='folder' must be of type list\[str\] \| None"),
        ("names", [5], "must be of type list"),
        ("several", ["a"], "must be of type"),
        ("choice", "quick", r"must be of type Literal\['fast', 'slow'\]"),
        ("limited", 0, "part.limited=0 must be at least 1"),
        ("limited", 10, "part.limited=10 must be at most 9"),
        ("above", 0, "part.above=0 must be above 0"),
        ("old", "x", "must be of type"),
        ("written", "a", "must be of type"),
        ("flag", "abc", "part.flag='abc' must be of type bool"),
        ("number", "abc", "part.number='abc' must be of type float"),
        ("words", 7, "part.words=7 must be of type str"),
        ("numbers", "abc", "part.numbers='abc' must be of type list"),
    ],
)
def test_values_of_another_type_are_reported_with_their_key(name, value, words):
    with pytest.raises(UserError, match=words) as error:
        converted(name, value)
    assert "\n" not in str(error.value)
