"""Scores by group: tables, and averages over rows and over groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medcap.scoring.question import GROUPS
from medcap.scoring.statistics import NUMBER, SHARE, bootstrap_group_mean, bootstrap_interval

NO_GROUP = "(none)"


def group_tables(
    groups: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, Any]], share: bool = True
) -> dict[str, list[dict[str, Any]]]:
    """Split rows' values by every field of ``GROUPS`` that occurs.

    Args:
        groups: group of each row.
        rows: a protocol's; those without a ``value`` are left out.
        share: whether the values are shares of 1.

    Returns:
        Field -> a line for each of its values: the value under the field's name, ``n``, ``right`` (None where rows
        are not right or wrong), ``value``, and ``low`` and ``high`` of its interval.
    """
    tables = {}
    for field in GROUPS:
        if not any(field in own for own in groups):
            continue
        members: dict[str, list[Mapping[str, Any]]] = {}
        for own, row in zip(groups, rows, strict=True):
            if row["value"] is not None:
                members.setdefault(own.get(field, NO_GROUP), []).append(row)
        tables[field] = [{field: name, **_line(members[name], share)} for name in sorted(members)]
    return tables


def averages(
    groups: Sequence[Mapping[str, str]], rows: Sequence[Mapping[str, Any]], share: bool = True
) -> dict[str, Any]:
    """Micro and macro averages of rows' values.

    Args:
        groups: group of each row.
        rows: a protocol's.
        share: whether the values are shares of 1.

    Returns:
        ``micro``: the mean over rows; ``macro``: field -> the unweighted mean over its groups; each with its interval.
        Empty where no row has a value.
    """
    kept = [(own, row["value"]) for own, row in zip(groups, rows, strict=True) if row["value"] is not None]
    if not kept:
        return {}
    values = [value for _, value in kept]
    kind = SHARE if share else NUMBER
    micro = bootstrap_interval(values, kind=kind)
    macro = {}
    for field in GROUPS:
        if any(field in own for own, _ in kept):
            mean = bootstrap_group_mean(values, [own.get(field, NO_GROUP) for own, _ in kept], kind=kind)
            macro[field] = {"value": mean.value, **mean.as_dict()}
    return {"micro": {"value": micro.value, **micro.as_dict()}, "macro": macro}


def _line(rows: Sequence[Mapping[str, Any]], share: bool) -> dict[str, Any]:
    interval = bootstrap_interval([row["value"] for row in rows], kind=SHARE if share else NUMBER)
    decided = [row["correct"] for row in rows if row.get("correct") is not None]
    right = sum(decided) if len(decided) == len(rows) else None
    return {"n": len(rows), "right": right, "value": interval.value, "low": interval.low, "high": interval.high}
