"""A reader of images that stands for decoders that end their process; importable by processes that start over."""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

from PIL import Image

from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef


class KillingReader(ImageReader):
    """Ends the process at every image with ``killer`` in its name."""

    def open_frames(self, image: ImageRef, keep_grey: bool = False) -> Generator[tuple[int | None, Image.Image]]:
        if "killer" in Path(image.path).name:
            os._exit(11)
        yield from super().open_frames(image, keep_grey)
