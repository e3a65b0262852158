"""The table that lines up protocols: score, interval, and what is left of it without the right image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from medcap.report.intervals import between
from medcap.report.sections import Bar, Section

CONTROL_NAMES = {
    "shuffled_image": "images shuffled",
    "no_image": "no image",
    "prior_box": "mean box of training",
    "prior_mask": "mean mask of training",
    "exchanged_question": "question exchanged",
    "exchanged_region": "region exchanged",
}


@dataclass(frozen=True)
class ProtocolLine:
    """One protocol's line.

    Attributes:
        protocol: its name.
        score: name of the score that stands for it.
        value: value of that score.
        description: the rule in a sentence.
        interval: (low, high) of the score, None where there is none.
        controls: control -> the same score without the right image.
        falls: control -> (value, low, high) of what the score loses there; an interval above 0 shows that the image
            matters.
        share: whether the score is a share of 1, shown in percent.
        own: control that leaves rows out -> the score of the others as they are.
    """

    protocol: str
    score: str
    value: float
    description: str = ""
    interval: tuple[float, float] | None = None
    controls: Mapping[str, float] = field(default_factory=dict)
    falls: Mapping[str, tuple[float, float | None, float | None]] = field(default_factory=dict)
    share: bool = True
    own: Mapping[str, float] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The value."""
        return self._with_unit(self.value)

    @property
    def between(self) -> str:
        """The interval, "" without one."""
        return " – ".join(map(self._number, self.interval)) if self.interval else ""

    @property
    def bar(self) -> Bar | None:
        """The strip of a share with an interval."""
        return Bar(self.value, *self.interval) if self.interval and self.share else None

    def control(self, name: str) -> str:
        """Return the value without the right image, a dash where it is not known."""
        return self._with_unit(self.controls[name]) if name in self.controls else "–"

    def own_rows(self, name: str) -> str:
        """Return the score of the rows that a control asks, as they are; "" where it asks all rows."""
        return f"of these rows: {self._with_unit(self.own[name])}" if name in self.own else ""

    def fall(self, name: str) -> tuple[str, str]:
        """Return how a control's fall is shown, as a style class, and its words; "" twice where it is not known."""
        if name not in self.controls or name not in self.falls:
            return "", ""
        value, low, high = self.falls[name]
        ends = between(low, high, self._number)
        kind, words = ("falls", "falls by") if low is not None and low > 0 else ("stays", "no proven fall:")
        return kind, f"{words} {self._number(value)} ({ends})"

    def _with_unit(self, value: float) -> str:
        return f"{self._number(value)} %" if self.share else self._number(value)

    def _number(self, value: float) -> str:
        text = f"{100.0 * value:.1f}" if self.share else f"{value:.3f}"
        return text.replace("-", "−")


@dataclass(frozen=True)
class ProtocolTable(Section):
    """The scores of several rules side by side, with what they fall to without the right image.

    Attributes:
        title: above it.
        lines: one for each protocol.
        note: a sentence below the title.
    """

    template = "protocols.html.j2"

    title: str
    lines: Sequence[ProtocolLine]
    note: str = ""

    @property
    def controls(self) -> dict[str, str]:
        """Each control that any line has, and its words."""
        names = [control for line in self.lines for control in line.controls]
        return {name: CONTROL_NAMES.get(name, name.replace("_", " ")) for name in names}
