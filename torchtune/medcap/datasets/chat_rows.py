"""The training dataset: conversations with images, tokenized when they are needed, planned into packed rows."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from medcap.data.boxes.box import Size
from medcap.data.boxes.style import PLAIN, BoxStyle
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.epoch_order import EpochOrder, plan_packed
from medcap.data.images.expansion import expand_images
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.views import DEFAULT_VIEW, View
from medcap.data.labels_and_image_tokens import LabelRules
from medcap.data.packing import Sample, SampleTable
from medcap.data.regions.draw import draw_region
from medcap.data.regions.region import Region
from medcap.data.row_boxes import place_boxes
from medcap.data.row_examples import MODES, as_conversation
from medcap.data.row_layouts import read_record
from medcap.data.row_masks import place_masks
from medcap.data.row_regions import place_regions
from medcap.data.samples import tokenize_record
from medcap.data.shared_prefix import continue_prompt_prefix, find_prompt_prefix
from medcap.datasets.rows.source import RowSource
from medcap.datasets.token_counts import count_tokens
from medcap.datasets.training_dataset import BadRow, TrainingDataset
from medcap.errors import UserError

# Rows that are looked at for the words that all of them begin with.
_PROMPT_PREFIX_ROWS = 64


@dataclass
class ChatDataset(TrainingDataset):
    """Conversations of a data file.

    Attributes:
        rows: the file.
        reader: opens the images.
        tokenizer: makes the tokens.
        conversation_style: the layout of the rows.
        rules: what is learnt.
        row_length: tokens that a sample keeps, and the length of a packed row.
        packed: whether a batch consists of full rows rather than samples.
        share_images: compute an image once for all samples of a batch that show it.
        prompt_prefix: tokens that samples leave out where they begin with them, because the model has computed them.
        view: how images are looked at where a row does not say it.
        boxes: how boxes are written.
        examples: how rows of example images are shown, one of ``medcap.data.row_examples.MODES``.
        table: the numbers of all samples; None before :meth:`count`.
    """

    rows: RowSource
    reader: ImageReader
    tokenizer: ChatTokenizer
    conversation_style: str
    rules: LabelRules
    row_length: int
    packed: bool
    share_images: bool = True
    prompt_prefix: tuple[int, ...] = ()
    view: View = DEFAULT_VIEW
    boxes: BoxStyle = PLAIN
    examples: str = MODES[0]
    table: SampleTable | None = field(default=None, init=False)
    _bad: dict[int, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self.tokenizer = self.tokenizer.counting(self.reader.num_pictures)

    @property
    def num_rows(self) -> int:
        """Rows of the file, good and bad."""
        return len(self.rows)

    @property
    def bad(self) -> list[BadRow]:
        """The rows that :meth:`count` found unusable; no plan holds them."""
        return [BadRow(self.rows.name(index), reason) for index, reason in self._bad.items()]

    @property
    def fingerprint(self) -> str:
        """Return a number for the rows and their processing: datasets with equal numbers have the same plans."""
        settings = {
            "rows": self.rows.fingerprint,
            "tokenizer": self.tokenizer.fingerprint,
            "style": self.conversation_style,
            "rules": asdict(self.rules),
            "row_length": self.row_length,
            "packed": self.packed,
            "share_images": self.share_images,
            "preamble": self.prompt_prefix,
        }
        settings |= ({"view": str(self.view)} if self.view != DEFAULT_VIEW else {}) | self.boxes.fingerprint
        settings |= {"examples": self.examples} if self.examples != MODES[0] else {}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    @property
    def plan_fingerprint(self) -> str:
        """A number for the order of an epoch: ``fingerprint``, and which rows can be used."""
        lengths = b"" if self.table is None else np.ascontiguousarray(self.table.lengths).tobytes()
        return hashlib.sha256(self.fingerprint.encode() + lengths).hexdigest()

    def sample(self, index: int) -> Sample:
        """Read and tokenize one row.

        Args:
            index: index, counted from 0.

        Returns:
            The sample.

        Raises:
            UserError: if the row is damaged, its image is not there, or nothing of it is left to learn.
        """
        name = self.rows.name(index)
        try:
            row = as_conversation(self.rows.read(index), self.examples)
            record = read_record(row, self.rows.path, index, self.reader.resolve, self.conversation_style, self.view)
            record = replace(record, messages=expand_images(record.messages, self.reader.expand))
            record = place_boxes(row, record, self.boxes, self.reader.shown_size)
            record = place_masks(row, record, self.reader.resolve)
            record = place_regions(row, record, self.reader.resolve)
            whole = tokenize_record(record, name, self.tokenizer, self.row_length, self.rules)
        except UserError as error:
            # Tar shards call a row otherwise than by its number.
            message = str(error).removeprefix(f"{self.rows.path}, row {index}: ")
            raise UserError(message if message.startswith(name) else f"{name}: {message}") from None
        except Exception as error:
            error.add_note(name)
            raise
        return continue_prompt_prefix(whole, self.prompt_prefix, self.tokenizer.image_token_id)

    def find_prompt_prefix(self) -> None:
        """Look at some rows for the words that samples begin with; from then on these are left out."""
        self.prompt_prefix = find_prompt_prefix(self.some_samples(), self.tokenizer.image_token_id)

    def some_samples(self) -> list[Sample]:
        """Return the usable samples among a few rows that are evenly spread over the file."""
        samples = []
        for index in _spread(self.num_rows, _PROMPT_PREFIX_ROWS):
            with contextlib.suppress(UserError):
                samples.append(self.sample(index))
        return samples

    def count(self) -> None:
        """Learn the length of every sample, which packing needs; kept on disk for the next time.

        Raises:
            UserError: if no row can be used.
        """
        roots = "\n".join(map(str, self.reader.roots))
        key = f"{self.fingerprint}\n{self.rows.path.resolve()}\n{roots}"
        self.table, self._bad = count_tokens(self.sample, self.num_rows, key)
        if len(self._bad) == self.num_rows:
            reason = self._bad[min(self._bad)]
            raise UserError(f"{self.rows.path} holds no usable row; the first problem: {reason}")

    def plan(self, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> EpochOrder:
        """Put every usable sample into exactly one item of the epoch.

        Args:
            seed: seed that decides the order together with the epoch.
            epoch: epoch, counted from 0.
            shuffle: False keeps the order of the file.

        Returns:
            The plan; the same on every machine.
        """
        order = self.usable_rows(np.random.default_rng([seed, epoch]) if shuffle else None)
        if not self.packed:
            return EpochOrder(order)
        assert self.table is not None, "count() comes before"
        generator = np.random.default_rng([seed, epoch, 1]) if shuffle else None
        return plan_packed(
            self.table, order, self.row_length, self.share_images, generator, far=not self.rows.sequential
        )

    def usable_rows(self, generator: np.random.Generator | None) -> np.ndarray:
        """Return every row that no count found unusable, once.

        Args:
            generator: decides the order; None for the order of the file.

        Returns:
            ``[n]`` int64.
        """
        order = self.rows.order(generator)
        return order if self.table is None else order[self.table.lengths[order] > 0]

    def name(self, index: int) -> str:
        """Return how messages to the user call a row."""
        return self.rows.name(index)

    def open_image(self, index: int, image: ImageRef) -> Any:
        """Open an image of a row."""
        return self.reader.open(image, keep_grey=True)

    def draw(self, index: int, region: Region, size: Size) -> np.ndarray:
        """Return the pixels of a region of a row."""
        return draw_region(region, size, self.reader)

    def check_images(self, limit: int) -> list[BadRow]:
        """Decode some pictures before a run.

        Args:
            limit: rows whose images are opened, evenly spread over the file.

        Returns:
            Those of them that cannot be used.
        """
        chosen = _spread(self.num_rows, limit)
        opened: dict[ImageRef, str | None] = {}

        def reason(index: int) -> str | None:
            try:
                images = self.sample(index).images
            except UserError as error:
                return str(error)
            for image in images:
                if image not in opened:
                    opened[image] = self._problem(image)
                if opened[image] is not None:
                    return opened[image]
            return None

        rows = [index for index in chosen if index not in self._bad]
        with ThreadPoolExecutor() as pool:
            found = tqdm(
                pool.map(reason, rows),
                total=len(rows),
                desc="checking images",
                unit="row",
                delay=3,
                mininterval=1,
                disable=None,
            )
            return [
                BadRow(self.rows.name(index), problem)
                for index, problem in zip(rows, found, strict=True)
                if problem is not None
            ]

    def has_images(self) -> bool:
        """Return whether any usable row has an image; text alone does not train the parts that make image tokens."""
        # A shared prefix ends with an image; without one, the rows must be read.
        if self.table is not None and self.table.prefixes.any():
            return True
        for index in itertools.chain(_spread(self.num_rows, _PROMPT_PREFIX_ROWS), range(self.num_rows)):
            with contextlib.suppress(UserError):
                if self.sample(index).images:
                    return True
        return False

    def _problem(self, image: ImageRef) -> str | None:
        try:
            self.reader.open(image)
        except UserError as error:
            return str(error)
        return None


def _spread(num_rows: int, limit: int) -> list[int]:
    """Return at most ``limit`` rows, evenly spread over all."""
    return np.unique(np.linspace(0, num_rows - 1, min(limit, num_rows)).astype(np.int64)).tolist()
