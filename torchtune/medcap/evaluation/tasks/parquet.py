"""Rows of the hub's parquet files, with the images that lie inside them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medcap.datasets.published.fields import field_text, field_words
from medcap.datasets.rows.parquet_rows import ImageStore, image_content, read_parquet
from medcap.errors import UserError
from medcap.evaluation.tasks.base import LoadOptions
from medcap.evaluation.tasks.official import Found, official_row, yes_no_type
from medcap.scoring.question import Question

# Relative to a copy's folder: as `hf download` leaves it, its data folder, and the hub's own conversion.
TEST_FILES = ("data/test-*.parquet", "test-*.parquet", "default/test/*.parquet", "test.parquet")


def hub_rows(found: Found, options: LoadOptions) -> tuple[list[tuple[Mapping[str, Any], Question]], list[Path]]:
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
            answer = field_words(columns["answer"])
            name = field_text(columns.get("qid")) or str(len(rows))
            row = official_row(
                name, columns["question"], [answer], image, problem, answer_type=yes_no_type([answer] if answer else [])
            )
            rows.append((columns, row))
    store.folder.mkdir(parents=True, exist_ok=True)
    return rows, [store.folder]


def _image(value: Any, store: ImageStore) -> tuple[Path | None, str | None]:
    content = image_content(value)
    if content is None:
        return None, "the parquet file holds no image for it"
    return store.write(content), None
