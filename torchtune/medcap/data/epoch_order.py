"""The order of the samples in an epoch, as arrays: the same on every process and machine, small even for millions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medcap.data.packing import SampleTable, make_documents, pack_documents


@dataclass(frozen=True)
class EpochOrder:
    """An epoch as a list of batch items: packed rows of documents, or samples.

    A batch is a stretch of consecutive items, whatever the number of processes that share it. So the place of a run in
    an epoch is one number, the items that are used, and it means the same to any number of processes.

    Attributes:
        samples: ``[n]`` int64 samples in order.
        documents: ``[d + 1]`` int64 positions in ``samples`` where the documents of packed rows start; None if
            the items are samples.
        items: ``[u + 1]`` int64 positions in ``documents`` where the rows start; None if the items are samples.
    """

    samples: np.ndarray
    documents: np.ndarray | None = None
    items: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.samples) if self.items is None else len(self.items) - 1

    def rows(self, start: int, stop: int) -> list[list[list[int]]]:
        """Packed rows ``start`` to ``stop``: for each its documents, for each document its samples."""
        assert self.documents is not None and self.items is not None, "an epoch of samples has no rows"
        bounds = self.items[start : stop + 1]
        return [
            [
                self.samples[self.documents[position] : self.documents[position + 1]].tolist()
                for position in range(bounds[row], bounds[row + 1])
            ]
            for row in range(stop - start)
        ]

    def samples_of(self, start: int, stop: int) -> list[int]:
        """Return the samples of items ``start`` to ``stop``."""
        if self.items is None or self.documents is None:
            return self.samples[start:stop].tolist()
        return self.samples[self.documents[self.items[start]] : self.documents[self.items[stop]]].tolist()


def plan_packed(
    table: SampleTable,
    order: np.ndarray,
    row_length: int,
    share_images: bool = True,
    generator: np.random.Generator | None = None,
    far: bool = True,
) -> EpochOrder:
    """Put every usable sample into exactly one packed row.

    Args:
        table: table of all samples.
        order: ``[n]`` int64 samples in the order wanted, which rows keep roughly.
        row_length: tokens of a row.
        share_images: one copy of an image for all samples that show it.
        generator: exchanges rows; None keeps them as they are packed.
        far: exchange all of them, not only those near each other.

    Returns:
        The plan; its items are rows.
    """
    documents = make_documents(table, order, row_length, share_images)
    rows = pack_documents(documents.lengths, row_length, generator=generator, far=far)
    sizes = np.diff(documents.starts)[rows.documents]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    # The positions of the samples, document after document in the order of the rows.
    positions = np.repeat(documents.starts[:-1][rows.documents] - starts[:-1], sizes) + np.arange(starts[-1])
    return EpochOrder(documents.samples[positions], starts, rows.starts)


@dataclass(frozen=True)
class Share:
    """One process's part of a batch: items ``start`` to ``stop`` of the plan; none if they are equal."""

    start: int
    stop: int


def share_batch(start: int, stop: int, rank: int, size: int) -> Share:
    """Cut the items of a batch into parts that differ by one item at most.

    Args:
        start: the batch's first item.
        stop: the item after its last.
        rank: rank of the process whose part is returned.
        size: how many parts.

    Returns:
        The part; those of all ranks cover the batch exactly once, in order.
    """
    count = stop - start
    return Share(start + count * rank // size, start + count * (rank + 1) // size)
