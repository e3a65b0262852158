"""What ``dataset.source`` names: rows of a file or of tar shards, and what finds their images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medcap.data.images.reader import MAX_PIXELS, ImageReader
from medcap.data.storage.cache import cache_folder
from medcap.datasets.rows.json_file import open_rows
from medcap.datasets.rows.tar_rows import is_shards, open_shards


class RowSource(Protocol):
    """Rows by number, read from disk when they are needed; small to copy into a worker process.

    Attributes:
        path: path for messages to the user.
        fingerprint: fingerprint of the content.
        sequential: whether rows should be read about in the order that ``order`` gives.
    """

    path: Path
    fingerprint: str
    sequential: bool

    def __len__(self) -> int: ...
    def read(self, index: int) -> Any: ...
    def name(self, index: int) -> str: ...
    def order(self, generator: np.random.Generator | None) -> np.ndarray: ...


def open_source(
    source: str, image_roots: Sequence[str | Path] | None = None, max_image_pixels: int = MAX_PIXELS
) -> tuple[RowSource, ImageReader]:
    """Open the rows of a training file, or of tar shards, and what finds their images.

    Args:
        source: source as for :func:`medcap.datasets.chat_dataset`.
        image_roots: image roots as for :func:`medcap.datasets.chat_dataset`.
        max_image_pixels: largest image in pixels, as for :func:`medcap.datasets.chat_dataset`.

    Raises:
        UserError: if the file or an image root cannot be read.
    """
    if is_shards(source):
        shards = open_shards(source, cache_folder())
        reader = ImageReader([*shards.shards, *(image_roots or [])], max_image_pixels, cache=cache_folder())
        return shards, reader
    rows = open_rows(source)
    roots = [rows.path.parent, Path.cwd()] if image_roots is None else image_roots
    return rows, ImageReader(roots, max_image_pixels, cache=cache_folder())
