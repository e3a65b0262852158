"""An image in a row: its path, and the keys that say how it is looked at; read without numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VIEW_KEYS = ("frames", "axis", "window", "fit")  # next to the turns, or beside the path of one image


def image_entry(image: Any) -> tuple[str, Mapping[str, Any]] | None:
    """Return the path of an image of a row, and the keys that are beside it; None for what is neither.

    Args:
        image: a path, or an object such as ``{"image": "ct.nii.gz", "frames": "4 even"}``.
    """
    own = image if isinstance(image, Mapping) else {}
    path = own.get("image") if own else image
    return (path, own) if isinstance(path, str) and path and set(own) <= {"image", *VIEW_KEYS} else None
