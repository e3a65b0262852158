"""Read samples by index and lay them out as batches, in the order of a plan."""

from __future__ import annotations

import contextlib
import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor

from medcap.data.batch import Batch, make_batch
from medcap.data.boxes.box import Size
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.epoch_order import EpochOrder
from medcap.data.images.reference import ImageRef
from medcap.data.packing import Sample, SampleTable, make_documents, make_table, pack_documents, pack_row
from medcap.data.regions.region import Region
from medcap.data.storage.cache import cache_folder
from medcap.datasets.shown_targets import with_shown_boxes, with_shown_masks, with_shown_regions
from medcap.errors import UserError
from medcap.models.preprocess import Preprocess

# Rows that are looked at before those between them.
_ROWS_AT_FIRST = 64


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: its name for messages, and the reason."""

    name: str
    reason: str


class TrainingDataset(ABC):
    """What training needs of its data: samples by index, and the order of each epoch.

    Attributes:
        tokenizer: makes the tokens.
        row_length: maximum tokens of a sample, and the length of a packed row.
        packed: whether the items of an epoch are packed rows rather than single samples.
        share_images: whether an image is computed once for all samples of a batch that show it.
        prompt_prefix: tokens that samples leave out where they begin with them, because the model has computed them.
        table: lengths, prefixes and groups of all samples; None if the samples were not counted.
    """

    tokenizer: ChatTokenizer
    row_length: int
    packed: bool
    share_images: bool
    prompt_prefix: tuple[int, ...]
    table: SampleTable | None

    @property
    @abstractmethod
    def num_rows(self) -> int:
        """Number of rows of all files, usable or not."""

    @property
    @abstractmethod
    def bad(self) -> list[BadRow]:
        """The rows that counting found unusable; no plan holds them."""

    @property
    @abstractmethod
    def plan_fingerprint(self) -> str:
        """Hash of what decides the order of an epoch: datasets with equal hashes have the same plans."""

    @abstractmethod
    def plan(self, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> EpochOrder:
        """Return the items of an epoch, the same on every machine.

        Args:
            seed: seed that decides the order together with the epoch.
            epoch: epoch, counted from 0.
            shuffle: False keeps the order of the files.
        """

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of a row for messages."""

    @abstractmethod
    def sample(self, index: int) -> Sample:
        """Read and tokenize one row; raise ``UserError`` if it cannot be used."""

    @abstractmethod
    def open_image(self, index: int, image: ImageRef) -> Any:
        """Open an image of a row; raise ``UserError`` if it cannot be used."""

    @abstractmethod
    def draw(self, index: int, region: Region, size: Size) -> np.ndarray:
        """Return the pixels of a region of a row, ``[H, W]`` bool, on its image of this size in pixels."""

    @abstractmethod
    def check_images(self, limit: int) -> list[BadRow]:
        """Decode the images of about ``limit`` rows and return the rows that cannot be used."""

    @abstractmethod
    def has_images(self) -> bool:
        """Return whether any usable row has an image."""

    def has_targets(self, name: str) -> bool:
        """Return whether any usable row has a target of a word in an answer, or a region in a question.

        Args:
            name: ``boxes``, ``masks`` or ``regions``.
        """
        step = -(-self.num_rows // _ROWS_AT_FIRST) or 1
        for index in itertools.chain.from_iterable(range(first, self.num_rows, step) for first in range(step)):
            with contextlib.suppress(UserError):
                if getattr(self.sample(index), name):
                    return True
        return False

    def load(
        self,
        plan: EpochOrder,
        start: int,
        stop: int,
        transform: Callable[..., Tensor],
        own_picture: Preprocess | None = None,
    ) -> tuple[Batch | None, list[BadRow]]:
        """Read items ``start`` to ``stop`` of a plan with their images and lay them out.

        Damaged rows, and rows with a damaged image, are left out. That depends only on the files, so each call gives
        the same batch.

        Args:
            plan: plan from :meth:`plan`.
            start: the first item.
            stop: the item after the last.
            transform: RGB or grey image -> ``[3, H, W]`` uint8; it gets the ``fit`` of a view that has one.
            own_picture: how images become what the mask decoder is shown; None where it looks at the tower's pictures.

        Returns:
            The batch (None if no row of it is usable) and the rows left out.

        Raises:
            UserError: if a row has another length than was counted.
        """
        wanted = plan.samples_of(start, stop)
        samples, images, own, bad = self._read(wanted, transform, own_picture)
        if not samples:
            return None, bad
        if self.packed:
            rows = [
                [[samples[index] for index in document if index in samples] for document in row]
                for row in plan.rows(start, stop)
            ]
            row_length = self.row_length
        else:
            rows, row_length = self._lay_out([samples[index] for index in wanted if index in samples])
        rows = [[document for document in row if document] for row in rows]
        batch = make_batch(
            [pack_row(row, row_length, self.tokenizer.stop_tokens[0]) for row in rows if row],
            self.tokenizer.image_token_id,
            self.tokenizer.num_image_tokens,
            images.__getitem__,
            tuple(samples[index].name for index in wanted if index in samples),
            self.prompt_prefix,
            static_shape=self.packed,
            mask_picture=None if own_picture is None else own.__getitem__,
        )
        return batch, bad

    def _read(
        self, wanted: list[int], transform: Callable[..., Tensor], own_picture: Preprocess | None
    ) -> tuple[dict[int, Sample], dict[ImageRef, Tensor], dict[ImageRef, Tensor], list[BadRow]]:
        """Return the usable samples, their images as the tower and as the mask decoder is shown them, and bad rows."""
        preprocess = own_picture or getattr(transform, "preprocess", None)
        as_own = None if own_picture is None else own_picture.transform()
        own: dict[ImageRef, Tensor] = {}
        samples: dict[int, Sample] = {}
        images: dict[ImageRef, Tensor] = {}
        sizes: dict[ImageRef, Size] = {}
        bad: list[BadRow] = []
        for index in wanted:
            try:
                sample = self.sample(index)
                with_masks = {sample.images[mask.image] for mask in sample.masks}
                for image, length in zip(sample.images, sample.image_lengths, strict=True):
                    wants_own = as_own is not None and image in with_masks and image not in own
                    if image not in images or wants_own:
                        # Only a fit of its own is passed: a transform need not know any.
                        fit = {} if image.view.fit is None else {"fit": image.view.fit}
                        opened = self.open_image(index, image)
                        images[image], sizes[image] = transform(opened, **fit), opened.size
                        if as_own is not None and wants_own:
                            own[image] = as_own(opened)
                    self._check_shape(image, images[image], length)
                if sample.boxes:
                    sample = with_shown_boxes(sample, transform, sizes)
                if sample.masks:
                    assert preprocess is not None, "it says where masks lie"
                    draw = partial(self.draw, index)
                    sample = with_shown_masks(sample, preprocess, own_picture is None, sizes, draw)
                form = None if self.tokenizer.added is None else self.tokenizer.added.regions
                if sample.regions and form is not None:
                    sample = with_shown_regions(sample, transform, sizes, partial(self.draw, index), form)
            except UserError as error:
                bad.append(BadRow(self.name(index), str(error)))
                continue
            except Exception as error:
                error.add_note(self.name(index))
                raise
            # [Contract] The plan was made from the counted lengths: a longer sample would overflow a packed row.
            if self.table is not None and self.table.lengths[index] != len(sample.tokens):
                raise UserError(
                    f"{sample.name} has {len(sample.tokens)} tokens, but {self.table.lengths[index]} were counted:"
                    f" remove {cache_folder() / 'tokens'} and start again"
                )
            samples[index] = sample
        return samples, images, own, bad

    def _check_shape(self, image: ImageRef, pixels: Tensor, length: int) -> None:
        """See that an image still has the shape that its number of tokens was made for."""
        num_pictures = 1 if pixels.ndim == 3 else len(pixels)
        if length != num_pictures * self.tokenizer.num_image_tokens:
            raise UserError(f"image {image} changed while it was read: it is now shown in {num_pictures} pictures")

    def _lay_out(self, samples: list[Sample]) -> tuple[list[list[list[Sample]]], int]:
        documents = make_documents(make_table(samples), np.arange(len(samples)), self.row_length, self.share_images)
        row_length = min(-(-int(documents.lengths.max()) // 16) * 16, self.row_length)
        packed = pack_documents(documents.lengths, row_length)
        bounds = documents.starts
        rows = [
            [
                [samples[index] for index in documents.samples[bounds[position] : bounds[position + 1]]]
                for position in packed.documents[packed.starts[row] : packed.starts[row + 1]]
            ]
            for row in range(len(packed.starts) - 1)
        ]
        return rows, row_length
