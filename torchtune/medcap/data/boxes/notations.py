"""Boxes in text, in the notations that medical data sets are written in.

``coloninst``
    ``{<x1><y1><x2><y2>}`` in pixels of the image, as ColonINST has it.
``qwen``
    ``<ref>liver</ref><box>(x1,y1),(x2,y2)</box>`` in thousandths of the image's width and height, as Qwen-VL and
    Med-GRIT have it; the part in ``<ref>`` may be missing.
``shares``
    ``[x1, y1, x2, y2]`` in shares of the image's width and height, 0 to 1.
``thousandths``
    The same in whole thousandths.

The first two are known by their marks. Of brackets, four numbers up to 1 are shares, and otherwise four whole numbers
up to 1000 are thousandths; anything else in brackets, such as pixels, is no box unless the notation is named. So
``[0, 0, 1, 1]`` is the whole image and not a thousandth of it.

Thousandths are truncated and end at 999, as Qwen-VL writes them: an edge moves by up to a thousandth of the image's
side, which is less than a pixel up to 1,000 pixels. Pixels and shares keep every whole pixel.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from medcap.data.boxes.box import Box, Edges, Size
from medcap.data.boxes.frame import clip

MAX_BOXES = 100
NOTATIONS = ("coloninst", "qwen", "shares", "thousandths")

_WHOLE = r"-?\d{1,6}"
_NUMBER = r"-?(?:\d{1,6}(?:\.\d{0,12})?|\.\d{1,12})"
_PATTERNS = {
    "coloninst": re.compile(r"\{\s*" + r"\s*".join([rf"<({_WHOLE})>"] * 4) + r"\s*\}"),
    "qwen": re.compile(
        r"(?:<ref>(?P<name>[^<]{0,200})</ref>\s*)?"
        rf"<box>\s*\(({_WHOLE}),\s*({_WHOLE})\),\s*\(({_WHOLE}),\s*({_WHOLE})\)\s*</box>"
    ),
    "brackets": re.compile(r"\[\s*" + r"\s*,\s*".join([rf"({_NUMBER})"] * 4) + r"\s*\]"),
}
_LOOSE = r"[-+]?(?:\d[\d.]{0,19}(?:e[-+]?\d{1,3})?|\.\d{1,19}|nan|inf)"
_LOOK_ALIKE = re.compile(
    r"<box>[^<]{0,120}</box>|\{\s*<[^{}]{0,120}>\s*\}|\[\s*" + r"\s*,\s*".join([_LOOSE] * 4) + r"\s*\]", re.IGNORECASE
)
_LIMITS = {"qwen": 1000.0, "shares": 1.0, "thousandths": 1000.0}


@dataclass(frozen=True)
class BoxText:
    """A box as it stands in a text, right or wrong.

    Attributes:
        start: where it begins.
        end: where the text after it begins.
        notation: one of ``NOTATIONS``.
        numbers: x1, y1, x2 and y2 as they are written.
        label: what ``<ref>`` says it shows.
    """

    start: int
    end: int
    notation: str
    numbers: Edges
    label: str = ""

    def edges(self, size: Size) -> Edges:
        """Return left, top, right and bottom in shares of an image of this size; they may lie outside it."""
        across, down = size if self.notation == "coloninst" else (_LIMITS[self.notation],) * 2
        left, top, right, bottom = self.numbers
        return left / across, top / down, right / across, bottom / down

    def edges_within(self, size: Size) -> Edges | None:
        """Return the edges cut at those of the image; None if nothing is left: it is outside, or has no area."""
        return clip(self.edges(size))

    @property
    def excess(self) -> float | None:
        """The largest number, if it is larger than any of its notation can be; pixels have no such limit."""
        largest = max(self.numbers)
        return largest if largest > _LIMITS.get(self.notation, largest) else None


def find_box_texts(text: str, notation: str | None = None) -> list[BoxText]:
    """Find what is written as a box, whether or not it is a rectangle within the image.

    Args:
        text: any.
        notation: one of ``NOTATIONS``, for boxes in this one only; None tells them apart by their marks and numbers.

    Returns:
        All of them, in their order.
    """
    if notation in ("shares", "thousandths"):
        found = [_box_text(match, notation) for match in _PATTERNS["brackets"].finditer(text)]
    elif notation is not None:
        found = [_box_text(match, notation) for match in _PATTERNS[notation].finditer(text)]
    else:
        known: Iterable[BoxText | None] = (
            _box_text(match, _bracket_notation(match.groups()) if name == "brackets" else name)
            for name, pattern in _PATTERNS.items()
            for match in pattern.finditer(text)
        )
        found = [box for box in known if box is not None]
        found.sort(key=lambda box: box.start)
    return [box for box in found if box is not None]


def find_look_alikes(text: str, notation: str | None = None) -> list[str]:
    """Find what looks like a box and is none that :func:`find_box_texts` finds, such as pixels in brackets."""
    ends = {found.end for found in find_box_texts(text, notation)}
    return [match.group() for match in _LOOK_ALIKE.finditer(text) if match.end() not in ends]


def find_boxes(text: str, width: int, height: int, notation: str | None = None) -> list[Box]:
    """Find the boxes in an answer.

    Args:
        text: the answer; ``{<644><498><1039><1016>}`` holds pixels, ``<ref>liver</ref><box>(178,280),(803,894)</box>``
            thousandths.
        width: width of the original image in pixels.
        height: height of the image, in pixels.
        notation: one of ``NOTATIONS``, for boxes in this one only; None takes all four.

    Returns:
        The boxes in their order, cut at the image's edges; a box that is not a rectangle within the image is left out.
    """
    cut = ((found.edges_within((width, height)), found.label) for found in find_box_texts(text, notation))
    return [Box(edges, label) for edges, label in cut if edges is not None][:MAX_BOXES]


def write_box(box: Box, notation: str, size: Size) -> str:
    """Write a box into a text.

    What comes out is always a box again: one that is smaller than the notation can say becomes as small as it can.

    Args:
        box: on an image of this size.
        notation: one of ``NOTATIONS``.
        size: width and height of the image in pixels; any for thousandths.
    """
    if notation == "coloninst":
        x1, y1, x2, y2 = map(round, box.pixels(size))
        (x1, x2), (y1, y2) = _apart(x1, x2, size[0]), _apart(y1, y2, size[1])
        return f"{{<{x1}><{y1}><{x2}><{y2}>}}"
    if notation == "shares":
        # As many decimals as tell neighbouring pixels apart; always 4 for images below 10,000 pixels.
        decimals = max(4, len(str(max(size))))
        units = 10**decimals
        x1, y1, x2, y2 = (round(edge * units) for edge in box.edges)
        written = (*_apart(x1, x2, units), *_apart(y1, y2, units))
        return "[" + ", ".join(f"{written[side] / units:.{decimals}f}" for side in (0, 2, 1, 3)) + "]"
    # Truncated, as Qwen-VL's tokenizer does; the last thousandth is 999.
    x1, y1, x2, y2 = (min(999, int(edge * 1000 + 1e-6)) for edge in box.edges)
    (x1, x2), (y1, y2) = _apart(x1, x2, 999), _apart(y1, y2, 999)
    if notation == "thousandths":
        return f"[{x1}, {y1}, {x2}, {y2}]"
    name = f"<ref>{box.label}</ref>" if box.label else ""
    return f"{name}<box>({x1},{y1}),({x2},{y2})</box>"


def _box_text(match: re.Match[str], notation: str | None) -> BoxText | None:
    if notation is None:
        return None
    label = (match.groupdict().get("name") or "").strip()
    x1, y1, x2, y2 = map(float, match.groups()[-4:])
    return BoxText(match.start(), match.end(), notation, (x1, y1, x2, y2), label)


def _bracket_notation(numbers: tuple[str, ...]) -> str | None:
    largest = max(map(float, numbers))
    if largest <= 1:
        return "shares"
    return "thousandths" if largest <= 1000 and not any("." in number for number in numbers) else None


def _apart(low: int, high: int, most: int) -> tuple[int, int]:
    """Keep at least one unit between two edges."""
    return (low, high) if low < high else (low, low + 1) if low < most else (most - 1, most)
