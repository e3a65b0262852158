"""The notation in which a run reads and writes boxes."""

from __future__ import annotations

from dataclasses import dataclass

from medcap.data.boxes.box import Box, Size
from medcap.data.boxes.notations import find_boxes, write_box


@dataclass(frozen=True)
class BoxStyle:
    """How boxes stand in the texts of a run.

    Attributes:
        notation: one of ``NOTATIONS``.
    """

    notation: str = "thousandths"

    def write(self, box: Box, size: Size) -> str:
        """Write a box on an image of this size."""
        return write_box(box, self.notation, size)

    def find(self, text: str, size: Size) -> list[Box]:
        """Find the boxes of an answer about an image of this size."""
        return find_boxes(text, *size)
