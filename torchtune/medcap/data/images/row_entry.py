"""An image in a row: its path, and the keys that say how it is looked at; read without numpy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medcap.errors import UserError
from medcap.instantiate import unknown_key

VIEW_KEYS = ("frames", "axis", "window", "fit")  # next to the turns, or beside the path of one image
MASK_KEYS = ("overlay", "mask_only")  # beside the path of one image: a mask drawn on it, or shown in its place


def image_entries(value: Any, field: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Read the images that a field of a row names.

    Args:
        value: a path, an object such as ``{"image": "ct.nii.gz", "frames": "4 even"}``, or a list of these.
        field: name of the field, for messages.

    Returns:
        The path of each, and the object that may say how it is looked at.

    Raises:
        UserError: if something else is there, or an object has an unknown key.
    """
    return [image_entry(image, field) for image in (value if isinstance(value, list) else [value])]


def image_entry(image: Any, field: str) -> tuple[str, Mapping[str, Any]]:
    """Read one image, as :func:`image_entries` does."""
    own = image if isinstance(image, Mapping) else {}
    path = own.get("image") if own else image
    if own and path is None:
        raise UserError(f"'{field}' holds an object without the key 'image', which is the path")
    if not isinstance(path, str) or not path:
        raise UserError(f"'{field}' must be a path or a list of paths")
    for key in own:
        if key not in (known := ("image", *VIEW_KEYS, *MASK_KEYS)):
            raise UserError(unknown_key(str(key), known, f"{field}."))
    return path, own
