"""The hub's parquet files, whose images lie in them and are taken out."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from medcap.datasets.conversion.base import Examples, Folders
from medcap.datasets.conversion.example import Example, SkipRecord, Tally, each
from medcap.datasets.conversion.fields import text_of
from medcap.datasets.conversion.reading import parquet_records


def hub_files(folders: Folders, names: Sequence[str], split: str) -> list[Path]:
    """The parquet files of a split, as `hf download` leaves them or the hub converts them; none if there are none.

    Args:
        folders: where the copies lie.
        names: what a copy's folder may be called.
        split: as the files spell it.
    """
    for name in names:
        folder = glob.escape(os.path.join(folders.data, name))
        for pattern in (f"data/{split}-*.parquet", f"{split}-*.parquet", f"default/{split}/*.parquet"):
            found = sorted(glob.glob(os.path.join(folder, pattern)))
            if found:
                return [Path(path) for path in found]
    return []


def hub_examples(
    files: Sequence[Path], folders: Folders, name: str, check: Callable[[Mapping[str, Any]], None] = lambda row: None
) -> Examples:
    """Read questions with columns ``image``, ``question`` and ``answer``.

    Args:
        files: the parquet files.
        folders: its ``out`` receives the images.
        name: of the data set: the images are written to ``<name>_images``.
        check: raises ``SkipRecord`` for a row that is not wanted.

    Returns:
        What reads them.
    """

    def read(tally: Tally) -> Iterator[tuple[str, Example]]:
        from medcap.datasets.rows.parquet_rows import ImageStore, image_content

        folder = os.path.join(folders.out, f"{name}_images")
        store = ImageStore(Path(folder))

        def convert(row: Mapping[str, Any]) -> Iterator[Example]:
            check(row)
            content = image_content(row["image"])
            if content is None:
                raise SkipRecord("there is no image in the file")
            turns = [(text_of(row, "question"), text_of(row, "answer"))]
            yield Example(turns, (store.write(content).name,), folder)

        yield from each(parquet_records(files, ("image", "question", "answer"), tally), convert, tally)

    return read
