"""Rows of the hub's parquet files, with the images that lie inside them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.checkpoints.atomic import atomic_file
from medcap.errors import UserError
from medcap.evaluation.rows import Row
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.official import Found, field_text, official_row, yes_no_type

# Relative to a copy's folder: as `hf download` leaves it, its data folder, and the hub's own conversion.
TEST_FILES = ("data/test-*.parquet", "test-*.parquet", "default/test/*.parquet", "test.parquet")
_BATCH = 64  # rows whose images are held at a time
_SUFFIXES = ((b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"BM", ".bmp"))
_SUFFIXES += ((b"II*\0", ".tif"), (b"MM\0*", ".tif"), (b"RIFF", ".webp"))


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
            raise UserError(f"output_dir: image {path} cannot be written: {error.strerror}") from error
        return path


def hub_rows(found: Found, options: LoadOptions) -> tuple[list[tuple[Mapping[str, Any], Row]], list[Path]]:
    """Read questions whose images lie in the same file: columns ``image``, ``question`` and ``answer``.

    Args:
        found: the parquet files.
        options: its ``work_folder`` receives the images.

    Returns:
        Each file's columns with the row that they make (closed where the answer is yes or no), and the folder that
        the images lie in.

    Raises:
        UserError: if there is no work folder, or a file is damaged.
    """
    if options.work_folder is None:
        raise UserError(
            f"{found.source}: its images lie inside the parquet file and need an output_dir to be written to"
        )
    store = ImageStore(options.work_folder)
    rows = []
    for path in found.files:
        for columns in read_parquet(path, ("image", "question", "answer")):
            image, problem = _image(columns["image"], store)
            answer = field_text(columns["answer"])
            name = field_text(columns.get("qid")) or str(len(rows))
            row = official_row(
                name, columns["question"], [answer], image, problem, answer_type=yes_no_type([answer] if answer else [])
            )
            rows.append((columns, row))
    store.folder.mkdir(parents=True, exist_ok=True)
    return rows, [store.folder]


def _image(value: Any, store: ImageStore) -> tuple[Path | None, str | None]:
    content = value.get("bytes") if isinstance(value, Mapping) else value
    if not isinstance(content, bytes) or not content:
        return None, "the parquet file holds no image for it"
    return store.write(content), None
