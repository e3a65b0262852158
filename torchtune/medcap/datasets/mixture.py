"""Mix several data sources by their weights into one training dataset."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, Protocol

import numpy as np

from medcap.data.boxes.box import Size
from medcap.data.epoch_order import EpochOrder, plan_packed
from medcap.data.images.reference import ImageRef
from medcap.data.mixture import MixedOrder, divide_epoch, mix
from medcap.data.packing import Sample, SampleTable
from medcap.data.regions.region import Region
from medcap.datasets.rows.source import RowSource
from medcap.datasets.source_keys import SourceArguments, source_names
from medcap.datasets.training_dataset import BadRow, TrainingDataset
from medcap.errors import UserError

# Added to a sample's group once for each pass. An odd 64-bit number: no two passes give a sample the same group.
_NEXT_PASS = np.int64(-7046029254386353131)

# A source of at most this many rows that is repeated in an epoch is shuffled in blocks of passes.
_SMALL = 1 << 14


class OneSource(Protocol):
    """What a mixture needs of each source: a dataset of one file, or of tar shards."""

    rows: RowSource
    tokenizer: Any
    row_length: int
    packed: bool
    share_images: bool
    prompt_prefix: tuple[int, ...]
    table: SampleTable | None

    @property
    def num_rows(self) -> int: ...
    @property
    def bad(self) -> list[BadRow]: ...
    @property
    def plan_fingerprint(self) -> str: ...
    def usable_rows(self, generator: np.random.Generator | None) -> np.ndarray: ...
    def sample(self, index: int) -> Sample: ...
    def open_image(self, index: int, image: ImageRef) -> Any: ...
    def draw(self, index: int, region: Region, size: Size) -> np.ndarray: ...
    def check_images(self, limit: int) -> list[BadRow]: ...
    def has_images(self) -> bool: ...


class MixedDataset(TrainingDataset):
    """Several sources as one dataset; samples are numbered through all sources, one source after another.

    Args:
        parts: one dataset for each source; their settings differ only in how rows are read.
        sources: keys of the sources, in the same order.
        epoch_samples: number of samples in an epoch; None for the number of usable rows.

    Raises:
        UserError: if the epoch is too small for one of the weights.
    """

    def __init__(
        self, parts: Sequence[OneSource], sources: Sequence[SourceArguments], epoch_samples: int | None = None
    ) -> None:
        first = parts[0]
        self.tokenizer, self.row_length, self.packed = first.tokenizer, first.row_length, first.packed
        self.share_images, self.prompt_prefix = first.share_images, first.prompt_prefix
        self.parts = list(parts)
        self.names = source_names(sources)
        # No generator: the number of usable rows does not depend on the order.
        self.sizes = [len(part.usable_rows(None)) for part in parts]
        # Fractions of the written numbers, so that 0.1 is exactly a tenth and shares are the same on every machine.
        self.weights = [
            Fraction(size) if given.weight is None else Fraction(repr(given.weight))
            for given, size in zip(sources, self.sizes, strict=True)
        ]
        self.divide(sum(self.sizes) if epoch_samples is None else epoch_samples)
        self._starts = np.cumsum([0, *(part.num_rows for part in parts)]).tolist()
        tables = [part.table for part in parts]
        self.table = None if None in tables else _joined([table for table in tables if table is not None])

    def divide(self, epoch_samples: int) -> None:
        """Set the number of samples in an epoch and divide it by the sources' own weights.

        Raises:
            UserError: if the epoch is too small for one of the weights.
        """
        self.epoch_samples = epoch_samples
        # The first epoch of each set of shares, and how many samples of each source its epochs have.
        self.shares = [(0, divide_epoch(self.weights, self.epoch_samples))]
        for number, (name, count) in enumerate(zip(self.names, self.counts, strict=True)):
            if not count:
                raise UserError(
                    f"dataset.sources.{number}.weight: {name} would have no sample in an epoch of"
                    f" {self.epoch_samples:,}: raise its weight or dataset.epoch_samples, or leave it out"
                )

    @property
    def counts(self) -> list[int]:
        """Number of samples of each source in an epoch, as the sources' own weights have it."""
        return self.shares[0][1]

    def counts_of(self, epoch: int) -> list[int]:
        """Return the number of samples of each source in an epoch."""
        return next(counts for first, counts in reversed(self.shares) if first <= epoch)

    def reweigh(self, factors: Sequence[float], epoch: int) -> list[int]:
        """Change how often each source is drawn, from an epoch on.

        Args:
            factors: what the weight that the configuration gives each source is multiplied by, above 0.
            epoch: first epoch that the change holds for, later than those of earlier changes.

        Returns:
            Number of samples of each source in an epoch from then on; each source keeps one at least.
        """
        weights = [weight * Fraction(factor) for weight, factor in zip(self.weights, factors, strict=True)]
        counts = divide_epoch(weights, self.epoch_samples)
        for empty in [source for source, count in enumerate(counts) if not count]:
            counts[counts.index(max(counts))] -= 1
            counts[empty] = 1
        self.shares.append((epoch, counts))
        return counts

    def some_of(self, source: int, limit: int) -> EpochOrder:
        """Return a plan of at most ``limit`` usable rows of a source, evenly spread over it."""
        rows = self.parts[source].usable_rows(None)
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(limit, len(rows))).astype(np.int64))]
        order = self._starts[source] + chosen
        if not self.packed:
            return EpochOrder(order)
        assert self.table is not None, "packed data sets are counted"
        return plan_packed(self.table, order, self.row_length, self.share_images)

    @property
    def num_rows(self) -> int:
        """Number of rows of all sources, usable or not."""
        return self._starts[-1]

    @property
    def bad(self) -> list[BadRow]:
        """The rows that counting found unusable; no plan holds them."""
        return [row for part in self.parts for row in part.bad]

    @property
    def plan_fingerprint(self) -> str:
        """Hash of what decides the order of an epoch: the sources, their weights and the size of the epoch."""
        settings = [
            [part.plan_fingerprint for part in self.parts],
            [str(weight / sum(self.weights)) for weight in self.weights],
            self.epoch_samples,
        ]
        return hashlib.sha256(json.dumps(settings).encode()).hexdigest()

    def plan(self, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> EpochOrder:
        """Mix the samples of an epoch; in a packed dataset each of them is in exactly one packed row.

        Args:
            seed: seed that decides the order together with the epoch.
            epoch: epoch, counted from 0.
            shuffle: False keeps the order within each file; the sources still alternate by their weights.

        Returns:
            The order, the same on every machine.
        """
        mixed = self._mix(seed, epoch, shuffle)
        order = np.array(self._starts[:-1])[mixed.sources] + mixed.rows
        if not self.packed:
            return EpochOrder(order)
        assert self.table is not None, "packed data sets are counted"
        # A row that comes again in a later pass must not share a document with its first occurrence: both would be
        # learnt in the same step.
        epoch_table = SampleTable(
            self.table.lengths[order],
            self.table.prefixes[order],
            self.table.groups[order] + mixed.passes * _NEXT_PASS,
        )
        generator = np.random.default_rng([seed, epoch, 1]) if shuffle else None
        far = not any(part.rows.sequential for part in self.parts)
        numbers = np.arange(len(order), dtype=np.int64)
        packed = plan_packed(epoch_table, numbers, self.row_length, self.share_images, generator, far)
        return replace(packed, samples=order[packed.samples])

    def _mix(self, seed: int, epoch: int, shuffle: bool) -> MixedOrder:
        counts = self.counts_of(epoch)
        taken = [sum(numbers) for numbers in zip([0] * len(counts), *map(self.counts_of, range(epoch)), strict=True)]

        def read(source: int, passes: range) -> np.ndarray:
            part, size = self.parts[source], self.sizes[source]
            if not shuffle:
                return np.tile(part.usable_rows(None), len(passes))
            if size > _SMALL or counts[source] <= size or part.rows.sequential:
                return np.concatenate([part.usable_rows(generator_of(number, source)) for number in passes])
            # Making a generator for each of many short passes would take longer than everything else.
            block = -(-_SMALL // size)
            blocks = range(passes.start // block, -(-passes.stop // block))
            rows = np.tile(part.usable_rows(None), (block, 1))
            drawn = [generator_of(number, source).permuted(rows, axis=1) for number in blocks]
            start = passes.start - blocks.start * block
            return np.concatenate(drawn)[start : start + len(passes)].ravel()

        def generator_of(number: int, source: int) -> np.random.Generator:
            # NumPy pads seeds with zeros, so the passes of source 0 have the order of the epochs of a run on it alone.
            return np.random.default_rng([seed, number, 0, source])

        generator = np.random.default_rng([seed, epoch, 2]) if shuffle else None
        return mix(self.sizes, counts, taken, read, generator)

    def name(self, index: int) -> str:
        """Return the name of a row for messages."""
        part, row = self._find(index)
        return part.rows.name(row)

    def sample(self, index: int) -> Sample:
        """Read and tokenize one row; raise ``UserError`` if it cannot be used."""
        part, row = self._find(index)
        return part.sample(row)

    def open_image(self, index: int, image: ImageRef) -> Any:
        """Open an image of a row with the settings of its source; raise ``UserError`` if that is impossible."""
        part, row = self._find(index)
        return part.open_image(row, image)

    def draw(self, index: int, region: Region, size: Size) -> np.ndarray:
        """Return the pixels of a region of a row with the settings of its source."""
        part, row = self._find(index)
        return part.draw(row, region, size)

    def _find(self, index: int) -> tuple[OneSource, int]:
        number = bisect_right(self._starts, index) - 1
        return self.parts[number], index - self._starts[number]

    def check_images(self, limit: int) -> list[BadRow]:
        """Decode the images of about ``limit`` rows, divided by the sizes of the sources; return the unusable rows."""
        return [
            row for part in self.parts for row in part.check_images(-(-limit * part.num_rows // max(self.num_rows, 1)))
        ]

    def has_images(self) -> bool:
        """Return whether any usable row has an image."""
        return any(part.has_images() for part in self.parts)

    def describe(self) -> str:
        """Return a table of the sources: rows, samples in an epoch and their share, and passes in an epoch."""
        width = max(map(len, self.names))
        lines = []
        for name, part, size, count in zip(self.names, self.parts, self.sizes, self.counts, strict=True):
            share = f"{count:>12,} samples an epoch ({count / self.epoch_samples:.1%})"
            lines.append(f"  {name:<{width}} {part.num_rows:>12,} rows {share}, {count / size:.2f} passes")
        return "\n".join(lines)


def _joined(tables: Sequence[SampleTable]) -> SampleTable:
    return SampleTable(
        np.concatenate([table.lengths for table in tables]),
        np.concatenate([table.prefixes for table in tables]),
        np.concatenate([table.groups for table in tables]),
    )
