"""Groups of parameters with their own arguments of the optimizer."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn


def group_parameters(
    parameters: Mapping[str, nn.Parameter], options: Mapping[str, Mapping[str, Any]]
) -> list[tuple[list[nn.Parameter], dict[str, Any]]]:
    """Put parameters with equal options together, groups and members in the order of the parameters.

    Args:
        parameters: name -> parameter.
        options: name -> arguments of the optimizer that it has of its own.

    Returns:
        The members and the arguments of each group.
    """
    groups: list[tuple[list[nn.Parameter], dict[str, Any]]] = []
    for name, parameter in parameters.items():
        own = dict(options.get(name, {}))
        members = next((members for members, other in groups if other == own), None)
        if members is None:
            groups.append(([parameter], own))
        else:
            members.append(parameter)
    return groups


def numbered(groups: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> list[dict[str, Any]]:
    """Return groups whose parameters are numbered one after another, as a state dict has them.

    Args:
        groups: groups of an optimizer.
        sizes: number of parameters in each.
    """
    starts = itertools.accumulate(sizes, initial=0)
    return [
        {**group, "params": list(range(start, start + size))}
        for group, start, size in zip(groups, starts, sizes, strict=False)
    ]
