"""The table that lines up protocols: score, interval, and what is left of it without the right image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape

from medcap.evaluation.report.charts import strip

CONTROL_NAMES = {"shuffled_image": "images shuffled", "no_image": "no image"}


@dataclass(frozen=True)
class ProtocolLine:
    """One protocol's line.

    Attributes:
        protocol: its name.
        score: name of the score that stands for it.
        value: of that score.
        description: the rule in a sentence.
        interval: (low, high) of the score, None where there is none.
        controls: control -> the same score without the right image.
        falls: control -> (value, low, high) of what the score loses there; an interval above 0 shows that the image
            matters.
        share: whether the score is a share of 1, told in percent.
    """

    protocol: str
    score: str
    value: float
    description: str = ""
    interval: tuple[float, float] | None = None
    controls: Mapping[str, float] = field(default_factory=dict)
    falls: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    share: bool = True


def protocol_table(lines: Sequence[ProtocolLine]) -> str:
    """Draw the table.

    Args:
        lines: one a protocol.

    Returns:
        A ``<table>`` element with a column for each control that any line has.
    """
    controls = list(dict.fromkeys(control for line in lines for control in line.controls))
    heads = ["protocol", "score", "value", *map(_control_name, controls)]
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = "".join(_line(line, controls) for line in lines)
    return f'<table class="protocols"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _control_name(control: str) -> str:
    return CONTROL_NAMES.get(control, control.replace("_", " "))


def _line(line: ProtocolLine, controls: Sequence[str]) -> str:
    rule = f'<p class="rule">{escape(line.description)}</p>' if line.description else ""
    others = "".join(
        f'<td data-label="{escape(_control_name(control))}">{_control(line, control)}</td>' for control in controls
    )
    score = f'<td data-label="score">{escape(line.score.replace("_", " "))}</td>'
    return f'<tr><th scope="row">{escape(line.protocol)}{rule}</th>{score}{_value(line)}{others}</tr>'


def _value(line: ProtocolLine) -> str:
    low, high = line.interval or (line.value, line.value)
    between = f'<span class="between">{_number(low, line)} – {_number(high, line)}</span>' if line.interval else ""
    value = f"{_number(line.value, line)}{_unit(line)}"
    if not line.share:
        return f'<td class="value" data-label="value"><strong>{value}</strong> {between}</td>'
    drawn = strip(low, line.value, high) if line.interval else ""
    return f'<td class="value" data-label="value"><strong>{value}</strong> {between}{drawn}</td>'


def _control(line: ProtocolLine, control: str) -> str:
    if control not in line.controls:
        return "–"
    value = f"{_number(line.controls[control], line)}{_unit(line)}"
    if control not in line.falls:
        return value
    fall, low, high = line.falls[control]
    kind, word = ("falls", "falls by") if low > 0 else ("stays", "no proven fall:")
    between = f"({_number(low, line)} to {_number(high, line)})"
    return f'{value}<p class="{kind}">{word} {_number(fall, line)} {between}</p>'


def _unit(line: ProtocolLine) -> str:
    return " %" if line.share else ""


def _number(value: float, line: ProtocolLine) -> str:
    text = f"{100.0 * value:.1f}" if line.share else f"{value:.3f}"
    return text.replace("-", "−")
