"""What a model answers beside its words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from medcap.data.boxes.box import Box

if TYPE_CHECKING:
    from medcap.data.regions.region import Region


@dataclass(frozen=True)
class Outputs:
    """The results of an answer beside its text; a further kind of result is one more field here.

    Attributes:
        boxes: in the order in which the answer names them; None where the model gives boxes in its text only.
        masks: in the order in which the answer names them, at the size of the original image; None in the place of one
            that is not there. None where the model gives no masks.
        experts: share of each expert in the answer's tokens; None where the model has no experts, or nobody asks.
    """

    boxes: tuple[Box, ...] | None = None
    masks: tuple[Region | None, ...] | None = None
    experts: tuple[float, ...] | None = None


NOTHING = Outputs()
