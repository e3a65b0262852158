"""The regions that questions name by tokens between ``<region>`` and ``</region>``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medcap.data.regions.region import Region


@dataclass(frozen=True)
class QuestionRegion:
    """A region of a question.

    Attributes:
        position: its first placeholder: an index of the tokens of the sample, the row or the prompt.
        region: where it is on the original image.
        image: number of the image that it lies on, among those of the sample, the row or the prompt.
        weights: ``[T]`` float32, once the image is loaded; see ``medcap.data.regions.patch_weights``.
    """

    position: int
    region: Region
    image: int
    weights: np.ndarray | None = None
