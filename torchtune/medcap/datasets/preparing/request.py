"""What is asked of preparing images, and what there is at the end."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medcap.datasets.preparing.worker import Settings

MAX_BYTES = 2 * 2**30  # of one file: a volume may be larger than anything that training should open directly
DONE, FAILURES = "prepared.jsonl", "failures.jsonl"


@dataclass(frozen=True)
class Request:
    """Describe what the user asks for.

    Attributes:
        sources: folders, or one file of rows.
        out: folder to write.
        settings: how pictures are made.
        shards: whether they go into tar shards.
        shard_size: rows, or images where there are no rows, of a shard.
        image_roots: folders and tars that the images of rows may be in, besides the rows' own and the working
            directory.
        workers: processes; 0 for none but this one.
        max_pixels: width x height above which an image is refused.
        overwrite: start over, whatever was prepared before.
        limit: take only the first images, or rows.
        shuffle: seed for the order of rows or images in shards; None keeps theirs.
    """

    sources: Sequence[Path]
    out: Path
    settings: Settings
    shards: bool = False
    shard_size: int = 1000
    image_roots: Sequence[Path] = ()
    workers: int = 1
    max_pixels: int = 50_000_000
    overwrite: bool = False
    limit: int | None = None
    shuffle: int | None = None


@dataclass
class Summary:
    """Count what there is at the end.

    Attributes:
        sources: images requested, in files.
        prepared: how many of them are done.
        already: how many of those were done before this run.
        pictures: files, or members of shards, that hold them.
        failures: images and rows that could not be prepared.
        others: files in the folders that are not images.
        rows: rows that were written; None where none were given.
    """

    sources: int = 0
    prepared: int = 0
    already: int = 0
    pictures: int = 0
    failures: int = 0
    others: int = 0
    rows: int | None = None


def ordered(groups: list[Any], shuffle: int | None) -> list[Any]:
    """Return the groups in their order, or in one that a seed decides."""
    if shuffle is None:
        return groups
    return random.Random(shuffle).sample(groups, len(groups))
