"""Checked fields of a record."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from medcap.datasets.conversion.example import SkipRecord
from medcap.datasets.published.fields import field_text


def text_of(record: Mapping[str, Any], key: str) -> str:
    """Return the words in a field.

    Raises:
        SkipRecord: if there are none.
    """
    return words(record.get(key), key)


def words(value: Any, key: str) -> str:
    """Return the words of a value; ``key`` is its name.

    Raises:
        SkipRecord: if there are none.
    """
    if value is None:
        raise SkipRecord(f"there is no '{key}'")
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise SkipRecord(f"'{key}' is not text")
    text = field_text(value)
    # The text that pandas wrote for an empty field.
    if not text or text.lower() == "nan":
        raise SkipRecord(f"'{key}' is empty")
    return text


def image_of(record: Mapping[str, Any], key: str) -> str:
    """Return the image's name in a field.

    Raises:
        SkipRecord: if there is none, or it leads out of its folder.
    """
    return safe_name(text_of(record, key))


def safe_name(name: str) -> str:
    """Return a name that stays in the folder that it is relative to.

    Raises:
        SkipRecord: if it does not.
    """
    if name.startswith("/") or "\0" in name or ".." in PurePosixPath(name).parts:
        raise SkipRecord("the image's name leads out of its folder")
    return name
