"""Small sets of images and masks, as converters read them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medcap.data.regions.run_length import decode

SIZE = (12, 8)  # width and height


def drawn(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    """Return a mask of ``SIZE`` with a rectangle, ``[H, W]`` bool."""
    mask = np.zeros((SIZE[1], SIZE[0]), bool)
    mask[top:bottom, left:right] = True
    return mask


LIVER, SPLEEN, PART = drawn(0, 0, 5, 4), drawn(6, 2, 10, 6), drawn(0, 6, 3, 8)


def write_image(path: Path, size: tuple[int, int] = SIZE) -> None:
    """Write a grey image; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, 90).save(path)


def write_values(path: Path, values: np.ndarray) -> None:
    """Write a picture with these values; its folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)


def masks_of(row: dict[str, Any]) -> dict[str, np.ndarray | None]:
    """Return the masks of a row by their labels."""
    return {entry["label"]: None if entry["mask"] is None else decode(entry["mask"]) for entry in row["masks"]}
