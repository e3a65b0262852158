"""Rows of the hub's parquet files, and a place for the images that are inside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.errors import UserError
from medcap.files import atomic_file

_BATCH = 64  # rows whose images are held at a time
_SUFFIXES = (
    *((b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"BM", ".bmp")),
    *((b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"RIFF", ".webp")),
)


def read_parquet(path: Path, required: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Read a parquet file row by row.

    Args:
        path: the file.
        required: columns that must be there.

    Yields:
        The row's columns; an image is ``{"bytes": ..., "path": ...}``.

    Raises:
        UserError: if the file is damaged or lacks a column.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            columns = file.schema_arrow.names
            for column in columns:
                if columns.count(column) > 1:
                    raise UserError(
                        f"{path} has {columns.count(column)} columns '{column}': rename or remove all but one"
                    )
            for column in required:
                if column not in columns:
                    raise UserError(f"{path} has no column '{column}' (it has: {', '.join(columns)})")
            for batch in file.iter_batches(batch_size=_BATCH):
                yield from batch.to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path}: not a readable parquet file ({reason}); download it again") from error


class ImageStore:
    """Writes images under the name of their content, so that rows that share a picture share its path.

    Args:
        folder: made when the first image is written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()

    def write(self, content: bytes) -> Path:
        """Write an image unless it is there.

        Args:
            content: an encoded image, as the benchmark has it.

        Returns:
            Its path.

        Raises:
            UserError: if the folder cannot be written.
        """
        suffix = next((suffix for start, suffix in _SUFFIXES if content.startswith(start)), ".image")
        path = self.folder / f"{hashlib.sha256(content).hexdigest()[:32]}{suffix}"
        try:
            if not path.is_file() or path.stat().st_size != len(content):
                with atomic_file(path) as temporary:
                    temporary.write_bytes(content)
        except OSError as error:
            raise UserError(f"image {path} cannot be written: {error.strerror}") from error
        return path


def image_content(value: Any) -> bytes | None:
    """Return the encoded image of a parquet column, None where there is none.

    Args:
        value: bytes, or ``{"bytes": ..., "path": ...}``.
    """
    content = value.get("bytes") if isinstance(value, Mapping) else value
    return content if isinstance(content, bytes) and content else None
