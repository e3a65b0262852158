"""What a model answers beside its words."""

from __future__ import annotations

from dataclasses import dataclass

from medcap.data.boxes.box import Box
from medcap.data.regions.region import Region


@dataclass(frozen=True)
class Outputs:
    """The results of an answer beside its text; a further kind of result is one more field here.

    Attributes:
        boxes: in the order in which the answer names them; None where the model gives boxes in its text only.
        masks: run-lengths at the original image's size, likewise; None where the answer names none.
    """

    boxes: tuple[Box, ...] | None = None
    masks: tuple[Region, ...] | None = None


NOTHING = Outputs()
