"""What rows, configurations, requests and the chat say of an image beside its file -> a view, and back.

All of them have the same four keys, and one reader.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from medcap.data.images.frame_choice import ALL, EVEN, MIDDLE
from medcap.data.images.row_entry import VIEW_KEYS
from medcap.data.images.views import AXES, DEFAULT_VIEW, FITS, View, Window
from medcap.errors import UserError, ViewKeyError

MAX_NAMED_FRAMES = 10_000  # a list of numbers in a row or a request is no longer
_WORD = re.compile(rf"({'|'.join(VIEW_KEYS)})=(\S+)")


def read_view(given: Mapping[str, Any], default: View = DEFAULT_VIEW, prefix: str = "") -> View:
    """Read the keys of a view.

    Args:
        given: may hold any of ``VIEW_KEYS``; other keys are not looked at. A key that is absent or null leaves what
            ``default`` says.
        default: what holds for the other keys.
        prefix: what messages put before the name of a key, such as ``dataset.view.``.

    Returns:
        The view.

    Raises:
        ViewKeyError: if a value is impossible.
    """
    found = {key: _READERS[key](given[key], f"{prefix}{key}") for key in VIEW_KEYS if given.get(key) is not None}
    return replace(default, **found) if found else default


def view_keys(view: View) -> dict[str, Any]:
    """Return a view as a row holds it: the keys that :func:`read_view` needs, none of the default view."""
    changed = {key: getattr(view, key) for key in VIEW_KEYS if getattr(view, key) != getattr(DEFAULT_VIEW, key)}
    return {key: _as_list(value) for key, value in changed.items()}


def split_words(text: str) -> tuple[str, View]:
    """Take the keys of a view off the end of what a person typed: ``ct.nii.gz window=40,400 frames=8even``.

    Args:
        text: name of a file, perhaps with spaces in it, and any of the keys after it. Numbers are divided by commas,
            the three windows of the channels by ``/``.

    Returns:
        The name, and the view.

    Raises:
        UserError: if a value is impossible, or a key is there twice.
    """
    found: dict[str, Any] = {}
    name = text.strip()
    while (parts := name.rsplit(None, 1))[-1:] and (word := _WORD.fullmatch(parts[-1])) and len(parts) == 2:
        if word[1] in found:
            raise UserError(f"{word[1]} is given twice")
        found[word[1]] = word_value(word[1], word[2])
        name = parts[0]
    return name, read_view(found)


def word_value(key: str, text: str) -> Any:
    """Return what a word means as JSON would hold it; what is no number stays text, for :func:`read_view` to judge."""
    if key == "window":
        windows = [_numbers(part) for part in text.split("/")]
        return windows if len(windows) > 1 else _single(windows[0])
    return _single(_numbers(text)) if key == "frames" else text


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _numbers(text: str) -> list[Any] | str:
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        return text
    return [int(value) if math.isfinite(value) and value == int(value) else value for value in values]


def _as_list(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_as_list(part) for part in value]
    return int(value) if isinstance(value, float) and value == int(value) else value


def _window(value: Any, key: str) -> Window | tuple[Window, Window, Window] | int:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, list | tuple) and len(value) == 3 and all(isinstance(part, list | tuple) for part in value):
        red, green, blue = (_one_window(part, key) for part in value)
        return red, green, blue
    return _one_window(value, key)


def _one_window(value: Any, key: str) -> Window:
    pair = isinstance(value, list | tuple) and len(value) == 2 and all(map(_is_number, value))
    if not pair:
        rule = "must be a centre and a width such as [40, 400], three of them for the three channels, or the number"
        raise ViewKeyError(key, value, f"{rule}, from 0, of a window in the DICOM file")
    center, width = value
    if not width > 0:
        raise ViewKeyError(key, value, "must have a width above 0")
    return float(center), float(width)


def _frames(value: Any, key: str) -> str | int | tuple[int, ...]:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if isinstance(value, str):
        if value in (ALL, MIDDLE):
            return value
        if even := EVEN.fullmatch(value.strip()):
            return f"{even[1]} even"
        if value.isdecimal() and value.isascii() and len(value) < 7:
            return int(value)
    if isinstance(value, list | tuple) and 1 <= len(value) <= MAX_NAMED_FRAMES:
        numbers = tuple(number for number in value if type(number) is int and number >= 0)
        if len(numbers) == len(value):
            return numbers
    rule = "must be middle, all, a number from 0, a list of such numbers, or '8 even' for eight that are evenly spread"
    raise ViewKeyError(key, value, rule)


def _axis(value: Any, key: str) -> str:
    return _choice(value, AXES, key)


def _fit(value: Any, key: str) -> str:
    return _choice(value, FITS, key)


def _choice(value: Any, choices: tuple[str, ...], key: str) -> str:
    if value not in choices:
        raise ViewKeyError(key, value, f"must be one of {', '.join(choices)}")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300


_READERS = {"window": _window, "frames": _frames, "axis": _axis, "fit": _fit}
