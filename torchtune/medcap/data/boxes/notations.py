"""Boxes in text, in the notations that medical data sets are written in."""

from __future__ import annotations

import re

from medcap.data.boxes.box import Box, Size

MAX_BOXES = 100
# ColonINST's {<x1><y1><x2><y2>} in pixels, Qwen-VL's <ref>..</ref><box>(x1,y1),(x2,y2)</box> in thousandths, and
# [x1, y1, x2, y2] in shares of the image and in thousandths.
NOTATIONS = ("coloninst", "qwen", "shares", "thousandths")

# ColonINST: whole pixels of the original image.
_PIXELS = re.compile(r"\{\s*<(\d{1,6})>\s*<(\d{1,6})>\s*<(\d{1,6})>\s*<(\d{1,6})>\s*\}")
# Qwen-VL's notation, which BiRD (Med-GRIT) uses: thousandths of the image's width and height.
_THOUSANDTHS = re.compile(
    r"(?:<ref>(?P<name>[^<]{0,200})</ref>\s*)?<box>\s*\((\d{1,4}),\s*(\d{1,4})\),\s*\((\d{1,4}),\s*(\d{1,4})\)\s*</box>"
)


def find_boxes(text: str, width: int, height: int) -> list[Box]:
    """Find the boxes in an answer.

    Args:
        text: the answer; ``{<644><498><1039><1016>}`` holds pixels, ``<ref>liver</ref><box>(178,280),(803,894)</box>``
            thousandths.
        width: width of the original image in pixels.
        height: height of the image, in pixels.

    Returns:
        The boxes in their order, cut at the image's edges; a box that is not a rectangle within the image is left out.
    """
    found = [
        (match.start(), _box(match.groups(), (width, height, width, height), "")) for match in _PIXELS.finditer(text)
    ]
    for match in _THOUSANDTHS.finditer(text):
        label = (match.group("name") or "").strip()
        found.append((match.start(), _box(match.groups()[1:], (1000,) * 4, label)))
    return [box for _, box in sorted(found, key=lambda pair: pair[0]) if box is not None][:MAX_BOXES]


def _box(numbers: tuple[str, ...], scales: tuple[int, ...], label: str) -> Box | None:
    left, top, right, bottom = (min(1.0, int(number) / scale) for number, scale in zip(numbers, scales, strict=True))
    return Box((left, top, right, bottom), label) if left < right and top < bottom else None


def write_box(box: Box, notation: str, size: Size) -> str:
    """Write a box into a text.

    Args:
        box: on an image of this size.
        notation: one of ``NOTATIONS``.
        size: width and height of the original image in pixels.
    """
    if notation == "coloninst":
        return "{" + "".join(f"<{round(edge)}>" for edge in box.pixels(size)) + "}"
    if notation == "shares":
        return "[" + ", ".join(f"{edge:.4f}" for edge in box.edges) + "]"
    # Truncated, as Qwen-VL's tokenizer does; the last thousandth is 999.
    left, top, right, bottom = (min(999, int(edge * 1000 + 1e-6)) for edge in box.edges)
    if notation == "thousandths":
        return f"[{left}, {top}, {right}, {bottom}]"
    name = f"<ref>{box.label}</ref>" if box.label else ""
    return f"{name}<box>({left},{top}),({right},{bottom})</box>"
