"""One caption or report of a published data set, of any number of images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class PublishedCaption:
    """The fields of a caption in a file.

    Attributes:
        location: the file and row, for messages.
        id: its name in the file, or its number.
        caption: its words; empty where the file gives none.
        images: in order, the name or the encoded content of each; None for one that is not in the file.
        suffixes: what may have to be added to a name.
        meta: further fields, such as ``patient``.
    """

    location: str
    id: str
    caption: str
    images: tuple[str | bytes | None, ...]
    suffixes: tuple[str, ...] = ("",)
    meta: Mapping[str, Any] = field(default_factory=dict)
