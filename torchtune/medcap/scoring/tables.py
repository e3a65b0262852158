"""Scores by group: tables, and averages over rows and over groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medcap.scoring.question import GROUPS
from medcap.scoring.statistics import NUMBER, SHARE, bootstrap_group_mean, bootstrap_interval

NO_GROUP = "(none)"


def group_tables(
    groups: Sequence[Mapping[str, str]],
    rows: Sequence[Mapping[str, Any]],
    share: bool = True,
    clusters: Sequence[str] | None = None,
) -> dict[str, list[dict[str, Any]]]:
    """Split rows' values by every field of ``GROUPS`` that occurs.

    Args:
        groups: group of each row.
        rows: a protocol's; those without a ``value`` are left out.
        share: whether the values are shares of 1.
        clusters: what each row is drawn with; None draws single rows.

    Returns:
        Field -> a line for each of its values: the value under the field's name, ``n``, ``right`` (None where rows
        are not right or wrong), ``value``, and ``low`` and ``high`` of its interval.
    """
    tables = {}
    for field in GROUPS:
        if not any(field in own for own in groups):
            continue
        members: dict[str, list[int]] = {}
        for index, (own, row) in enumerate(zip(groups, rows, strict=True)):
            if row["value"] is not None:
                members.setdefault(own.get(field, NO_GROUP), []).append(index)
        tables[field] = [
            {field: name, **_line([rows[index] for index in own], share, _of(clusters, own))}
            for name, own in sorted(members.items())
        ]
    return tables


def averages(
    groups: Sequence[Mapping[str, str]],
    rows: Sequence[Mapping[str, Any]],
    share: bool = True,
    clusters: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Micro and macro averages of rows' values.

    Args:
        groups: group of each row.
        rows: a protocol's.
        share: whether the values are shares of 1.
        clusters: what each row is drawn with; None draws single rows.

    Returns:
        ``micro``: the mean over rows; ``macro``: field -> the unweighted mean over its groups; each with its interval.
        Empty where no row has a value.
    """
    indices = [index for index, row in enumerate(rows) if row["value"] is not None]
    if not indices:
        return {}
    values, kept = [rows[index]["value"] for index in indices], [groups[index] for index in indices]
    drawn = _of(clusters, indices)
    kind = SHARE if share else NUMBER
    micro = bootstrap_interval(values, kind=kind, clusters=drawn)
    macro = {}
    for field in GROUPS:
        if any(field in own for own in kept):
            names = [own.get(field, NO_GROUP) for own in kept]
            mean = bootstrap_group_mean(values, names, kind=kind, clusters=drawn)
            macro[field] = {"value": mean.value, **mean.as_dict()}
    return {"micro": {"value": micro.value, **micro.as_dict()}, "macro": macro}


def _of(clusters: Sequence[str] | None, indices: Sequence[int]) -> list[str] | None:
    return None if clusters is None else [clusters[index] for index in indices]


def _line(rows: Sequence[Mapping[str, Any]], share: bool, clusters: Sequence[str] | None) -> dict[str, Any]:
    kind = SHARE if share else NUMBER
    interval = bootstrap_interval([row["value"] for row in rows], kind=kind, clusters=clusters)
    decided = [row["correct"] for row in rows if row.get("correct") is not None]
    right = sum(decided) if len(decided) == len(rows) else None
    return {"n": len(rows), "right": right, "value": interval.value, "low": interval.low, "high": interval.high}
