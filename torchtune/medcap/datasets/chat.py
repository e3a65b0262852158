"""The training dataset: conversations with images, tokenized when they are needed, planned into packed rows."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import numpy as np
from torch import Tensor
from tqdm import tqdm

from medcap.data.batch import Batch, make_batch
from medcap.data.chat_tokenizer import ChatTokenizer, LabelRules
from medcap.data.conversations import STYLES, read_record
from medcap.data.epoch_order import EpochOrder, plan_packed
from medcap.data.images.reader import MAX_PIXELS, ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.packing import Sample, SampleTable, make_documents, make_table, pack_documents, pack_row
from medcap.data.samples import tokenize_record
from medcap.data.shared_prefix import continue_prompt_prefix, find_prompt_prefix
from medcap.data.storage.cache import cache_folder
from medcap.datasets.rows.source import RowSource, open_source
from medcap.datasets.token_counts import count_tokens
from medcap.errors import UserError

# Up to this many rows are all tokenized before a run even where packing does not need their lengths: seconds.
COUNT_ALWAYS = 100_000
# Rows that are looked at for the words that all of them begin with.
_PROMPT_PREFIX_ROWS = 64


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: how it is called, and why not."""

    name: str
    reason: str


@dataclass
class ChatDataset:
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
    _table: SampleTable | None = field(default=None, init=False)
    _bad: dict[int, str] = field(default_factory=dict, init=False)

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
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()

    @property
    def plan_fingerprint(self) -> str:
        """A number for the order of an epoch: ``fingerprint``, and which rows can be used."""
        lengths = b"" if self._table is None else np.ascontiguousarray(self._table.lengths).tobytes()
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
            row = self.rows.read(index)
            record = read_record(row, self.rows.path, index, self.reader.resolve, self.conversation_style)
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
        samples = []
        for index in np.unique(
            np.linspace(0, self.num_rows - 1, min(_PROMPT_PREFIX_ROWS, self.num_rows)).astype(np.int64)
        ):
            with contextlib.suppress(UserError):
                samples.append(self.sample(int(index)))
        self.prompt_prefix = find_prompt_prefix(samples, self.tokenizer.image_token_id)

    def count(self) -> None:
        """Learn the length of every sample, which packing needs; kept on disk for the next time.

        Raises:
            UserError: if no row can be used.
        """
        roots = "\n".join(map(str, self.reader.roots))
        key = f"{self.fingerprint}\n{self.rows.path.resolve()}\n{roots}"
        self._table, self._bad = count_tokens(self.sample, self.num_rows, key)
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
        generator = np.random.default_rng([seed, epoch]) if shuffle else None
        order = self.rows.order(generator)
        if not self.packed:
            return EpochOrder(order if self._table is None else order[self._table.lengths[order] > 0])
        assert self._table is not None, "count() comes before"
        generator = np.random.default_rng([seed, epoch, 1]) if shuffle else None
        return plan_packed(
            self._table, order, self.row_length, self.share_images, generator, far=not self.rows.sequential
        )

    def load(
        self, plan: EpochOrder, start: int, stop: int, transform: Callable[..., Tensor]
    ) -> tuple[Batch | None, list[BadRow]]:
        """Read items ``start`` to ``stop`` of a plan with their images and lay them out.

        Damaged rows, and rows with a damaged image, are left out; that depends only on the files, so it is the same
        every time.

        Args:
            plan: plan from :meth:`plan`.
            start: the first item.
            stop: the item after the last.
            transform: RGB or grey image -> ``[3, H, W]`` uint8.

        Returns:
            The batch (None if nothing of it is usable) and the rows left out.
        """
        wanted = plan.samples_of(start, stop)
        samples, images, bad = self._read(wanted, transform)
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
        )
        return batch, bad

    def _read(
        self, wanted: list[int], transform: Callable[..., Tensor]
    ) -> tuple[dict[int, Sample], dict[ImageRef, Tensor], list[BadRow]]:
        samples: dict[int, Sample] = {}
        images: dict[ImageRef, Tensor] = {}
        bad: list[BadRow] = []
        for index in wanted:
            try:
                sample = self.sample(index)
                for image in sample.images:
                    if image not in images:
                        images[image] = transform(self.reader.open(image, keep_grey=True))
            except UserError as error:
                bad.append(BadRow(self.rows.name(index), str(error)))
                continue
            except Exception as error:
                error.add_note(self.rows.name(index))
                raise
            # [Contract] the plan was made from these counts: another length would overflow a row.
            if self._table is not None and self._table.lengths[index] != len(sample.tokens):
                raise UserError(
                    f"{sample.name} has {len(sample.tokens)} tokens, but {self._table.lengths[index]} were counted:"
                    f" remove {cache_folder() / 'tokens'} and start again"
                )
            samples[index] = sample
        return samples, images, bad

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

    def check_images(self, limit: int) -> list[BadRow]:
        """Decode some pictures before a run.

        Args:
            limit: rows whose images are opened, evenly spread over the file.

        Returns:
            Those of them that cannot be used.
        """
        chosen = np.unique(np.linspace(0, self.num_rows - 1, min(limit, self.num_rows)).astype(np.int64))
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

        rows = [index for index in chosen.tolist() if index not in self._bad]
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
        if self._table is not None and self._table.prefixes.any():
            return True
        some = np.linspace(0, self.num_rows - 1, min(_PROMPT_PREFIX_ROWS, self.num_rows)).astype(np.int64).tolist()
        for index in itertools.chain(some, range(self.num_rows)):
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


def chat_dataset(
    tokenizer: ChatTokenizer,
    *,
    source: str,
    max_seq_len: int = 1024,
    conversation_style: str = "auto",
    packed: bool = False,
    share_images: bool = True,
    share_preamble: bool = True,
    image_roots: list[str] | None = None,
    max_image_pixels: int = MAX_PIXELS,
    train_on_input: bool = False,
    train_on_header: bool = False,
    mask_after_image: bool = False,
) -> ChatDataset:
    """Conversations with images for a frozen language model.

    Args:
        tokenizer: given by the recipe.
        source: JSON or JSONL file of medcap 2024's, LLaVA's, ColonINST's or torchtune's rows; text-only rows may be
            among them. Or tar shards in WebDataset's layout: a ``.tar``, a glob, or a pattern such as
            ``train-{000000..000099}.tar``.
        max_seq_len: tokens that a sample keeps, and the length of a packed row.
        conversation_style: ``auto`` recognises the layouts by their keys.
        packed: True fills rows of ``max_seq_len`` tokens, and ``batch_size`` counts rows; False takes ``batch_size``
            samples a step, as an unpacked run does, and still pads next to nothing.
        share_images: compute an image once for all samples of a batch that show it.
        share_preamble: compute the words that all samples begin with once in a run.
        image_roots: folders that images may be in, or tar files that hold them; by default the file's own folder and
            the working directory.
        max_image_pixels: width x height above which an image is refused.
        train_on_input: learn the user's words too.
        train_on_header: learn the assistant's header too, as medcap 2024 did.
        mask_after_image: never learn the token right after an image, as medcap 2024 did.

    Returns:
        The dataset, its rows indexed; tokens are made when they are needed.

    Raises:
        UserError: if the file cannot be read or holds no usable row.

    Example:
        >>> dataset = chat_dataset(tokenizer, source="datasets/medcap/vqarad_train.json", max_seq_len=500)
        >>> plan = dataset.plan(seed=0, epoch=0)
    """
    check_room_for_image(max_seq_len, tokenizer)
    if conversation_style not in STYLES:
        raise UserError(f"conversation_style={conversation_style} is unknown: use one of {', '.join(STYLES)}")
    rows, reader = open_source(source, image_roots, max_image_pixels)
    rules = LabelRules(train_on_input, train_on_header, mask_after_image)
    dataset = ChatDataset(rows, reader, tokenizer, conversation_style, rules, max_seq_len, packed, share_images)
    if share_preamble:
        dataset.find_prompt_prefix()
    if packed or len(rows) <= COUNT_ALWAYS:
        dataset.count()
    return dataset


def check_room_for_image(max_seq_len: int, tokenizer: ChatTokenizer) -> None:
    """See that a sample can hold an image.

    Raises:
        UserError: if one image has as many tokens as a sample keeps.
    """
    if max_seq_len <= tokenizer.num_image_tokens:
        raise UserError(
            f"dataset.max_seq_len={max_seq_len} is not longer than one image's {tokenizer.num_image_tokens} tokens:"
            " raise it, or lower projector.num_image_tokens"
        )
