"""A mask that is drawn on the picture of its image, or shown in its place: an example for segmentation by example."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import Drawing
from medcap.data.regions.draw import draw_region
from medcap.data.regions.region import MaskFile, Region

COLOUR = (118, 158, 224)  # MedPLIB's blue
IMAGE_WEIGHT, COLOUR_WEIGHT = 0.45, 0.55


@dataclass(frozen=True)
class MaskDrawing(Drawing):
    """A region on a picture.

    Attributes:
        region: the mask, in pixels of the whole picture.
        alone: show the mask instead of the picture, white on black.
    """

    region: Region
    alone: bool = False

    def __str__(self) -> str:
        shape = self.region.shape
        if isinstance(shape, MaskFile):
            name = shape.path if shape.value is None else f"{shape.path}:{shape.value}"
        else:  # a run-length may be long
            name = f"{type(shape).__name__}:{hashlib.sha256(repr(shape).encode()).hexdigest()[:16]}"
        return f"{'mask_only' if self.alone else 'overlay'}={name}"

    def on(self, picture: Image.Image, reader: ImageReader) -> Image.Image:
        """Draw ``.45 * image + .55 * RGB(118, 158, 224)``, cut to whole numbers as in MedPLIB's code.

        Raises:
            UserError: if the mask has another size than the picture, is empty, or its file cannot be read.
        """
        inside = draw_region(self.region, picture.size, reader)  # [H, W]
        if self.alone:
            return Image.fromarray(inside.astype(np.uint8) * 255).convert("RGB")
        pixels = np.array(picture)  # [H, W, 3]
        colour = np.array(COLOUR, dtype=np.float32)
        pixels[inside] = pixels[inside].astype(np.float32) * IMAGE_WEIGHT + colour * COLOUR_WEIGHT
        return Image.fromarray(pixels)
