"""The plot of ``medcap stats``: distributions as an SVG file that any viewer shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medcap.errors import UserError
from medcap.files import write_text
from medcap.report.charts import HEIGHT, WIDTH, LineChart
from medcap.report.templates import render

_TITLE = 34  # height of a panel's title
_COLUMNS = 2


def write_plot(path: Path, findings: dict[str, Any]) -> None:
    """Draw the histograms of tokens and image sizes.

    Args:
        path: an ``.svg`` file.
        findings: findings of ``medcap stats``.

    Raises:
        UserError: if the file cannot be written.
    """
    tokens, images = findings["tokens"] or {}, findings["images"]
    panels = [
        ("Tokens a row", tokens.get("total"), "tokens"),
        ("Answer", tokens.get("answer"), "tokens"),
        ("Question and template", tokens.get("question"), "tokens"),
        ("Images, shorter side", images["shorter_side"], "pixels"),
    ]
    charts = [_chart(title, found, unit) for title, found, unit in panels if found and found["rows"]]
    text = render("stats_plot.svg.j2", charts=charts, columns=_COLUMNS, width=WIDTH, height=HEIGHT, title=_TITLE)
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"--plot {path} cannot be written: {error.strerror}") from error


def _chart(title: str, found: dict[str, Any], unit: str) -> LineChart:
    # The outline of the bars, from the ground and back to it.
    points = [(found["histogram"][0]["from"], 0)]
    for entry in found["histogram"]:
        points += [(entry["from"], entry["rows"]), (entry["to"], entry["rows"])]
    points.append((found["histogram"][-1]["to"], 0))
    return LineChart(title, {title: points}, unit, "images" if unit == "pixels" else "rows")
