"""The plot of ``medcap stats``: distributions as an SVG file that any viewer shows."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from medcap.checkpoints.atomic import write_text
from medcap.errors import UserError
from medcap.evaluation.report.charts import HEIGHT, WIDTH, line_chart

_TITLE = 34  # height of a panel's title
_COLUMNS = 2
_STYLE = """
svg { background: #ffffff; font-family: system-ui, "Liberation Sans", Arial, sans-serif; }
.title { font-size: 16px; font-weight: 600; fill: #14181f; }
.chart .grid { stroke: #e6e9ee; } .chart .axis { stroke: #58616f; }
.chart text { fill: #58616f; font-size: 13px; }
.series .line { fill: none; stroke: #0b6e99; stroke-width: 2.2; } .series .mark { display: none; }
"""


def write_plot(path: Path, findings: dict[str, Any]) -> None:
    """Draw the histograms of tokens and image sizes.

    Args:
        path: an ``.svg`` file.
        findings: of ``medcap stats``.

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
    drawn = [_panel(title, found, unit) for title, found, unit in panels if found and found["rows"]]
    cells = []
    for place, panel in enumerate(drawn):
        x, y = place % _COLUMNS * WIDTH, place // _COLUMNS * (HEIGHT + _TITLE)
        cells.append(f'<g transform="translate({x} {y})">{panel}</g>')
    width, height = _COLUMNS * WIDTH, -(-len(drawn) // _COLUMNS) * (HEIGHT + _TITLE) or HEIGHT
    text = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
        f"<style>{_STYLE}</style>{''.join(cells)}</svg>\n"
    )
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"--plot {path} cannot be written: {error.strerror}") from error


def _panel(title: str, found: dict[str, Any], unit: str) -> str:
    # The outline of the bars, from the ground and back to it.
    points = [(found["histogram"][0]["from"], 0)]
    for entry in found["histogram"]:
        points += [(entry["from"], entry["rows"]), (entry["to"], entry["rows"])]
    points.append((found["histogram"][-1]["to"], 0))
    counted = "images" if unit == "pixels" else "rows"
    chart = line_chart({title: points}, unit, counted).replace(
        "<svg ", f'<svg y="{_TITLE}" width="{WIDTH}" height="{HEIGHT}" ', 1
    )
    return f'<text class="title" x="16" y="24">{escape(title)}</text>{chart}'
