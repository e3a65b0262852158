"""The training dataset: conversations with images, planned into batches of packed rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from medcap.data.batch import Batch, make_batch
from medcap.data.conversations import STYLES, Record, read_record
from medcap.data.images import MAX_PIXELS, ImageReader
from medcap.data.packing import Document, Sample, make_documents, pack_documents, pack_row
from medcap.data.tokenization import ChatTokenizer, LabelRules
from medcap.datasets.rows import read_rows
from medcap.errors import UserError


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: how it is called, and why not."""

    name: str
    reason: str


@dataclass
class Records:
    """The usable rows of a file, those that are not, and the reader of their images."""

    records: list[Record]
    bad: list[BadRow]
    reader: ImageReader


def load_chat_records(
    source: str | Path,
    conversation_style: str = "auto",
    image_roots: Sequence[str] | None = None,
    max_image_pixels: int = MAX_PIXELS,
) -> Records:
    """Read a data file.

    Args:
        source: JSON or JSONL in medcap's, LLaVA's, ColonINST's or torchtune's layout.
        conversation_style: one of ``medcap.data.conversations.STYLES``.
        image_roots: folders that images may lie in; by default the file's own folder and the working directory.
        max_image_pixels: width x height above which an image is refused.

    Returns:
        The rows in the order of the file.

    Raises:
        UserError: if the file is missing, empty, not JSON, or the style is unknown.
    """
    if conversation_style not in STYLES:
        raise UserError(f"conversation_style={conversation_style} is unknown: use one of {', '.join(STYLES)}")
    path = Path(source)
    rows = read_rows(path)
    first = next(rows, None)
    if first is None:
        raise UserError(f"data file {path} holds no rows")
    reader = ImageReader(image_roots or [path.parent, Path.cwd()], max_pixels=max_image_pixels)
    result = Records([], [], reader)
    for index, row in (first, *rows):
        try:
            result.records.append(read_record(row, path, index, reader.resolve, conversation_style))
        except UserError as error:
            result.bad.append(BadRow(f"{path}, row {index}", str(error)))
    return result


@dataclass(frozen=True)
class BatchPlan:
    """Which documents stand in which rows of one step."""

    rows: tuple[tuple[Document, ...], ...]
    row_length: int

    @property
    def samples(self) -> list[int]:
        """The samples in it, row by row."""
        return [sample for row in self.rows for document in row for sample in document.samples]


@dataclass
class ChatDataset:
    """Tokenized conversations.

    Attributes:
        samples: the usable rows.
        bad: the others, with reasons.
        reader: opens their images.
        row_length: tokens of a packed row.
        packed: whether a batch is full rows rather than a number of samples.
        tokenizer: what made the tokens.
    """

    samples: list[Sample]
    bad: list[BadRow]
    reader: ImageReader
    row_length: int
    packed: bool
    tokenizer: ChatTokenizer
    share_images: bool = True
    _pad_id: int = field(init=False)

    def __post_init__(self) -> None:
        self._pad_id = self.tokenizer.stop_tokens[0]

    @property
    def num_rows(self) -> int:
        """Rows of the file, good and bad."""
        return len(self.samples) + len(self.bad)

    def plan(self, batch_size: int, seed: int = 0, epoch: int = 0, shuffle: bool = True) -> list[BatchPlan]:
        """Put every sample into exactly one batch.

        Args:
            batch_size: rows of ``row_length`` tokens if ``packed``, else samples, which are packed into rows as long
                as the batch's longest document.
            seed: with the epoch, decides the order.
            epoch: from 0.
            shuffle: False keeps the order of the file.

        Returns:
            The batches of the epoch; the same on every machine.
        """
        order = np.arange(len(self.samples))
        if shuffle:
            np.random.default_rng([seed, epoch]).shuffle(order)
        if not self.packed:
            groups = [order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)]
            return [self._plan_samples(group) for group in groups]
        documents = make_documents(self.samples, order.tolist(), self.row_length, self.share_images)
        packed = pack_documents([document.length for document in documents], self.row_length)
        rows = [tuple(documents[index] for index in row) for row in packed]
        if shuffle:
            # Best fit puts the long documents of a window first; a batch should not be all long or all short.
            order = np.random.default_rng([seed, epoch, 1]).permutation(len(rows))
            rows = [rows[index] for index in order]
        return [
            BatchPlan(tuple(rows[start : start + batch_size]), self.row_length)
            for start in range(0, len(rows), batch_size)
        ]

    def _plan_samples(self, group: list[int]) -> BatchPlan:
        documents = make_documents(self.samples, group, self.row_length, self.share_images)
        longest = max(document.length for document in documents)
        row_length = min(-(-longest // 16) * 16, self.row_length)
        packed = pack_documents([document.length for document in documents], row_length)
        return BatchPlan(tuple(tuple(documents[index] for index in row) for row in packed), row_length)

    def load(self, plan: BatchPlan, transform: Callable[..., Tensor]) -> tuple[Batch | None, list[BadRow]]:
        """Open the images of a planned batch and lay it out.

        Samples whose image is damaged are left out; that depends on the file alone, so it is the same every time.

        Args:
            plan: from :meth:`plan`.
            transform: RGB image -> ``[3, H, W]`` float32.

        Returns:
            The batch (None if nothing of it is usable) and the samples left out.
        """
        loaded: dict[str, Tensor] = {}
        bad: list[BadRow] = []
        rows = []
        for planned in plan.rows:
            kept = []
            for document in planned:
                try:
                    for image in self.samples[document.samples[0]].images:
                        if image not in loaded:
                            loaded[image] = transform(self.reader.open(image))
                    kept.append(document)
                except UserError as error:
                    bad += [BadRow(self.samples[index].name, str(error)) for index in document.samples]
            if kept:
                rows.append(pack_row(self.samples, kept, plan.row_length, self._pad_id))
        if not rows:
            return None, bad
        left_out = {row.name for row in bad}
        names = tuple(name for name in (self.samples[index].name for index in plan.samples) if name not in left_out)
        batch = make_batch(
            rows,
            self.tokenizer.image_token_id,
            self.tokenizer.num_image_tokens,
            loaded.__getitem__,
            names,
            static_shape=self.packed,
        )
        return batch, bad

    def check_images(self, limit: int) -> list[BadRow]:
        """Look at the images before a run: the headers of all of them, and decode up to ``limit``, evenly spread.

        Returns:
            One entry for each damaged image, named after the first row that shows it.
        """
        names = {image: sample.name for sample in reversed(self.samples) for image in sample.images}
        images = list(names)
        step = max(1, -(-len(images) // limit)) if limit else 0

        def reason(place: int) -> str | None:
            try:
                if step and place % step == 0:
                    self.reader.open(images[place])
                else:
                    self.reader.check(images[place])
            except UserError as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:
            found = tqdm(
                pool.map(reason, range(len(images))),
                total=len(images),
                desc="checking images",
                unit="image",
                delay=3,
                mininterval=1,
                disable=None,
            )
            return [
                BadRow(names[image], problem)
                for image, problem in zip(images, found, strict=True)
                if problem is not None
            ]


def chat_dataset(
    tokenizer: ChatTokenizer,
    *,
    source: str,
    max_seq_len: int = 1024,
    conversation_style: str = "auto",
    packed: bool = False,
    share_images: bool = True,
    image_roots: list[str] | None = None,
    max_image_pixels: int = MAX_PIXELS,
    train_on_input: bool = False,
    train_on_header: bool = False,
    mask_after_image: bool = False,
) -> ChatDataset:
    """Conversations with images for a frozen language model.

    Args:
        tokenizer: given by the recipe.
        source: JSON or JSONL file of medcap's, LLaVA's, ColonINST's or torchtune's rows; text-only rows may be among
            them.
        max_seq_len: tokens that a sample keeps, and the length of a packed row.
        conversation_style: ``auto`` tells the layouts apart by their keys.
        packed: True fills rows of ``max_seq_len`` tokens, and ``batch_size`` counts rows; False takes ``batch_size``
            samples a step, as an unpacked run does, and still pads next to nothing.
        share_images: compute an image once for all samples of a batch that show it.
        image_roots: folders that images may lie in; by default the file's own folder and the working directory.
        max_image_pixels: width x height above which an image is refused.
        train_on_input: learn the user's words too.
        train_on_header: learn the assistant's header too, as medcap 2024 did.
        mask_after_image: never learn the token right after an image, as medcap 2024 did.

    Returns:
        The dataset.

    Raises:
        UserError: if the file cannot be read or holds no usable row.

    Example:
        >>> dataset = chat_dataset(tokenizer, source="datasets/medcap/vqarad_train.json", max_seq_len=500)
        >>> batches = dataset.plan(batch_size=4)
    """
    if max_seq_len <= tokenizer.num_image_tokens:
        raise UserError(
            f"dataset.max_seq_len={max_seq_len} is not longer than one image's {tokenizer.num_image_tokens} tokens:"
            " raise it, or lower projector.num_image_tokens"
        )
    records = load_chat_records(source, conversation_style, image_roots, max_image_pixels)
    rules = LabelRules(train_on_input, train_on_header, mask_after_image)
    samples, bad = [], list(records.bad)
    for record in tqdm(records.records, desc="tokenizing", unit="row", delay=3, mininterval=1, disable=None):
        try:
            samples.append(tokenize_record(record, tokenizer, max_seq_len, rules))
        except UserError as error:
            bad.append(BadRow(record.name, f"{record.name}: {error}"))
    if not samples:
        raise UserError(f"{source} holds no usable row; the first problem: {bad[0].reason}")
    return ChatDataset(samples, bad, records.reader, max_seq_len, packed, tokenizer, share_images)


def tokenize_record(record: Record, tokenizer: ChatTokenizer, max_seq_len: int, rules: LabelRules) -> Sample:
    """One record -> one sample.

    Raises:
        UserError: if truncation cuts an image or leaves nothing to learn.
    """
    chat = tokenizer.tokenize(record.messages, max_seq_len, rules)
    tokens = np.asarray(chat.tokens, dtype=np.int32)
    image_tokens = np.flatnonzero(tokens == tokenizer.image_token_id)
    return Sample(
        tokens=tokens,
        labels=np.asarray(chat.labels, dtype=np.int32),
        images=tuple(chat.images),
        images_end=int(image_tokens[-1]) + 1 if len(image_tokens) else 0,
        name=record.name,
    )
