"""Captions in JSON rows, the layout of most of medcap 2024's sources."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medcap.datasets.conversion.base import Examples
from medcap.datasets.conversion.example import Example, each
from medcap.datasets.conversion.fields import image_of, text_of
from medcap.datasets.conversion.instructions import DESCRIBE
from medcap.datasets.published.reading import json_records


def json_captions(file: str, folder: str, image_key: str, text_key: str) -> Examples:
    """Read a JSON or JSONL file of images and their captions.

    Args:
        file: its path.
        folder: that the images are in.
        image_key: the field with an image's name.
        text_key: the field with its caption.

    Returns:
        The reader of the files.
    """

    def convert(record: Mapping[str, Any]) -> Iterator[Example]:
        yield Example([("", text_of(record, text_key))], (image_of(record, image_key),), folder, DESCRIBE)

    return lambda tally: each(json_records(Path(file), tally), convert, tally)
