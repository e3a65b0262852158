"""A task's scores as lines for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from medcap.plurals import counted
from medcap.report.intervals import between
from medcap.report.protocol_table import CONTROL_NAMES
from medcap.scoring.image_reliance import NAMES


def summary(metrics: Mapping[str, Any]) -> str:
    """Print a task's scores.

    Args:
        metrics: what metrics.json holds.

    Returns:
        A line for the task, a block for each protocol, then notices.
    """
    lines = [f"{metrics['task']}: {counted(metrics['n'], 'row')}, {counted(metrics['failures'], 'failure')}"]
    for name, block in metrics["protocols"].items():
        asked = "" if block["asked"] in ("direct", name) else f", asked by {block['asked']}"
        lines.append(f"  {name}{asked}")
        for score, value in leaves(block["scores"]):
            interval = value_at(block["intervals"], score)
            ends = f"  [{interval['low']:.4f}, {interval['high']:.4f}]" if interval else ""
            others = [
                f"{CONTROL_NAMES.get(control, control)} {value_at(part['scores'], score):.4f}"
                for control, part in block["controls"].items()
                if score == block["headline"] and value_at(part["scores"], score) is not None
            ]
            number = "-" if value is None else f"{value:.4f}"
            lines.append(f"    {score:<24} {number}{ends}{''.join(f'  {other}' for other in others)}")
        for measure, (value, low, high) in shown_reliance(block.get("image_reliance", {})).items():
            lines.append(f"    {NAMES[measure]:<34} {value:.4f}  [{between(low, high, '{:.4f}'.format, ', ')}]")
    notices = [*metrics["notices"], *(n for block in metrics["protocols"].values() for n in block["notices"])]
    return "\n".join([*lines, *(f"  note: {notice}" for notice in dict.fromkeys(notices))])


def value_at(tree: Mapping[str, Any], name: str) -> Any:
    """Return the value under a dotted name, None if there is none."""
    value: Any = tree
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def leaves(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted names and values of nested scores."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def shown_reliance(block: Mapping[str, Any]) -> dict[str, tuple[float, float | None, float | None]]:
    """Return the measures of image reliance that are there, each with the ends of its interval, None without one.

    Args:
        block: ``image_reliance`` of a protocol in metrics.json.
    """
    return {name: (block[name]["value"], block[name]["low"], block[name]["high"]) for name in NAMES if name in block}
