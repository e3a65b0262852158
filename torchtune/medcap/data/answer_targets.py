"""What the words of answers that stand for a box or a mask are to give."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medcap.data.boxes.box import Edges
from medcap.data.regions.region import Region


@dataclass(frozen=True)
class BoxTarget:
    """A box that an answer names by a word.

    Attributes:
        position: the token that predicts the word: an index of the sample's or the row's tokens.
        edges: left, top, right and bottom, in shares of the original image; once the image is loaded, in shares of the
            picture that the tower is shown. None for what the image does not show.
        image: number of the image that it lies on, among those of the sample or the row.
    """

    position: int
    edges: Edges | None
    image: int


@dataclass(frozen=True)
class MaskTarget:
    """A mask that an answer names by a word.

    Attributes:
        position: the token that predicts the word: an index of the sample's or the row's tokens.
        region: where it is on the original image; None for what the image does not show.
        image: number of the image that it lies on, among those of the sample or the row.
        shown: ``[2, side, side]`` uint8, once the image is loaded; see ``medcap.data.regions.shown.shown_mask``.
    """

    position: int
    region: Region | None
    image: int
    shown: np.ndarray | None = None
