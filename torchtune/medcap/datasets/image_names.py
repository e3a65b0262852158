"""The images that a row names, in any layout that this project reads, and their change to other names."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medcap.data.images.reader import IMAGE_KEYS
from medcap.data.images.row_entry import MASK_KEYS, VIEW_KEYS, image_entries
from medcap.data.row_layouts import CONVERSATION_KEYS, FOLDER_IN_META, IMAGE_FIELDS, is_coloninst
from medcap.errors import UserError

# The name, medcap 2024's dir or None, and the keys that say how the image is looked at -> the new name.
Rename = Callable[[str, str | None, Mapping[str, Any]], str]


def has_turns(row: Any) -> bool:
    """Return whether a row is one to train on, with ``conversations`` or ``messages``."""
    return isinstance(row, Mapping) and any(key in row for key in (*CONVERSATION_KEYS, "messages"))


def rename_images(row: Any, rename: Rename, keep_views: bool = True) -> dict[str, Any]:
    """Rename the images of a row; all else stays unchanged, except the folder in medcap 2024's ``meta``.

    Args:
        row: the decoded JSON value: a conversation of any layout, or a row of a benchmark that names its image under
            one of ``IMAGE_KEYS``.
        rename: returns the new name, relative to no other folder.
        keep_views: False removes what is said of frames, axis and window, as the new images are those pictures already.

    Returns:
        A changed copy.

    Raises:
        UserError: if the row is not an object, or names its images by something else than text.
    """
    if not isinstance(row, Mapping):
        raise UserError(f"a row must be an object, not {type(row).__name__}")
    changed = copy.deepcopy(dict(row))
    meta = row.get("meta")
    named = FOLDER_IN_META.search(meta) if isinstance(meta, str) else None
    folder = named.group(1) if named else None
    fields = _fields(row)
    for field in fields:
        value = row[field]
        found = image_entries(value, field)
        names = [_renamed(name, folder, own, _keys(row), rename, keep_views) for name, own in found]
        changed[field] = names if isinstance(value, list) else names[0]
    if fields == ["id"]:
        changed["image"] = Path(changed["id"]).stem
    if "messages" in row:
        _rename_parts(changed["messages"], rename, _keys(row), keep_views)
    if fields or "messages" in row:
        _drop_views(changed, keep_views)
    if named and isinstance(meta, str):
        changed["meta"] = (meta[: named.start()] + meta[named.end() :]).strip("; ")
        if not changed["meta"]:
            del changed["meta"]
    return changed


def _fields(row: Mapping[str, Any]) -> list[str]:
    """Return the fields that name images; fields next to the turns may name them twice."""
    if any(key in row for key in CONVERSATION_KEYS) and is_coloninst(row):
        return ["id"]
    if has_turns(row):
        return [key for key in IMAGE_FIELDS if row.get(key)]
    return [key for key in IMAGE_KEYS if row.get(key)][:1]


def _keys(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: given[key] for key in VIEW_KEYS if given.get(key) is not None}


def _renamed(
    name: str, folder: str | None, own: Mapping[str, Any], keys: Mapping[str, Any], rename: Rename, keep_views: bool
) -> str | dict[str, Any]:
    """Return a renamed image; an object where it still says how it is looked at."""
    if not keep_views and any(key in own for key in MASK_KEYS):
        raise UserError(f"{name} is shown with a mask, which fits its pixels as they are: images of such rows stay")
    changed = {**own, "image": rename(name, folder, {**keys, **_keys(own)})}
    _drop_views(changed, keep_views)
    return changed if len(changed) > 1 else changed["image"]


def _drop_views(changed: dict[str, Any], keep_views: bool) -> None:
    for key in () if keep_views else VIEW_KEYS:
        if key != "fit":
            changed.pop(key, None)


def _rename_parts(turns: Any, rename: Rename, keys: Mapping[str, Any], keep_views: bool) -> None:
    """Images of OpenAI's content parts, in place."""
    for turn in turns if isinstance(turns, list) else ():
        parts = turn.get("content") if isinstance(turn, dict) else None
        for part in parts if isinstance(parts, list) else ():
            if isinstance(part, dict) and part.get("type") == "image":
                for key in ("content", "text", "image"):
                    if isinstance(part.get(key), str) and part[key]:
                        part[key] = rename(part[key], None, {**keys, **_keys(part)})
                        _drop_views(part, keep_views)
                        break
