"""One row against the rules of training, and what is to be known of it: made in worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torchtune.data import Message

from medcap.data.answers import check_answers
from medcap.data.boxes.style import PLAIN, BoxStyle
from medcap.data.chat_marks import check_text
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.images.expansion import expand_images
from medcap.data.images.reader import ImageReader
from medcap.data.images.reference import ImageRef
from medcap.data.images.view_keys import read_view
from medcap.data.images.views import DEFAULT_VIEW, View
from medcap.data.labels_and_image_tokens import LabelRules
from medcap.data.packing import sharing
from medcap.data.row_boxes import place_boxes
from medcap.data.row_examples import MODES, as_conversation
from medcap.data.row_layouts import Record, read_record
from medcap.data.row_masks import place_masks
from medcap.data.row_regions import place_regions
from medcap.data.samples import make_sample
from medcap.data.shared_prefix import continue_prompt_prefix
from medcap.datasets.image_names import has_turns, rename_images
from medcap.datasets.inspection.boxes import BoxFacts, boxes_of_row
from medcap.datasets.inspection.masks import MaskFacts, first_problem, masks_of_row, regions_of_row
from medcap.datasets.rows.source import RowSource
from medcap.errors import UserError, is_of_the_machine
from medcap.modules.label_loss import IGNORE_INDEX


@dataclass(frozen=True)
class Problem:
    """Why a row cannot be used.

    Attributes:
        rule: one of ``RULES``.
        reason: reason in the words of the training.
    """

    rule: str
    reason: str


# The kinds of problems: the row itself, its layout, the place of an image, its content, what lies on it, the tokens.
RULES = ("json", "layout", "image path", "image", "boxes", "masks", "regions", "tokens", "crash")


@dataclass(frozen=True)
class RowLengths:
    """Tokens of a row, as training makes them.

    Attributes:
        whole: number of tokens of the whole conversation.
        kept: number of tokens that ``max_seq_len`` leaves.
        learnt: how many of the kept tokens are learnt.
        image: how many of the kept tokens stand for images.
        sample: number of tokens that are computed: up to the last one learnt, after the prompt prefix.
        start: tokens of the prompt prefix that it leaves out.
        prefix: prefix as in ``SampleTable``.
        group: group as in ``SampleTable``.
    """

    whole: int
    kept: int
    learnt: int
    image: int
    sample: int
    start: int
    prefix: int
    group: int


@dataclass(frozen=True)
class RowFacts:
    """What is known of a row before its images are opened.

    Attributes:
        problem: None for a row that can be used as far as its words go.
        words: a 64-bit number for its text, the positions of its images, and its boxes, masks and regions.
        images: a 64-bit number for path and view of each image.
        lengths: None without a tokenizer, and of a row that cannot be used.
        boxes: its boxes as they are written.
        masks: its masks.
        regions: its regions.
    """

    problem: Problem | None = None
    words: int = 0
    images: tuple[int, ...] = ()
    lengths: RowLengths | None = None
    boxes: tuple[BoxFacts, ...] = ()
    masks: tuple[MaskFacts, ...] = ()
    regions: tuple[MaskFacts, ...] = ()


@dataclass
class RowChecker:
    """Reads rows as training does.

    Attributes:
        rows: the file.
        reader: finds the images.
        style: the rows' layout.
        tokenizer: None leaves the rules about tokens out, but for an assistant who says nothing.
        max_seq_len: tokens that a sample keeps.
        label_rules: what is learnt.
        prompt_prefix: tokens that samples leave out where they begin with them.
        any_layout: take a row without turns, such as a benchmark's, for the images that it names.
        view: how images are looked at where a row does not say it.
        boxes: how boxes are written.
        examples: how rows of example images are shown.
        regions_as_words: count ``<region></region>`` as the words that it is written with, where a tokenizer comes
            without the configuration that says how regions are read.
    """

    rows: RowSource
    reader: ImageReader
    style: str = "auto"
    tokenizer: ChatTokenizer | None = None
    max_seq_len: int = 1024
    label_rules: LabelRules = field(default_factory=LabelRules)
    prompt_prefix: tuple[int, ...] = ()
    any_layout: bool = False
    view: View = DEFAULT_VIEW
    boxes: BoxStyle = PLAIN
    examples: str = MODES[0]
    regions_as_words: bool = False

    def __post_init__(self) -> None:
        if self.tokenizer is not None:
            self.tokenizer = self.tokenizer.counting(self.reader.num_pictures)

    def __call__(self, index: int) -> RowFacts:
        """Check a row; whatever is wrong with it is in the facts.

        Args:
            index: index, counted from 0.
        """
        stage = _Stage()
        try:
            return self._check(index, stage)
        except UserError as error:
            return RowFacts(Problem(stage.rule, self._without_name(index, str(error))))
        except Exception as error:  # An error that no rule foresees would end a training run with a traceback.
            if is_of_the_machine(error):
                raise
            return RowFacts(Problem("crash", f"reading it fails: {type(error).__name__}: {error}"))

    def images(self, index: int) -> list[ImageRef]:
        """Return a row's images, in order; the row must be good as far as its words go."""
        row = as_conversation(self.rows.read(index), self.examples)
        if self._only_names(row):
            return self._named_images(row)
        return self._record(row, index, self.reader.resolve).images

    def _record(
        self, row: Any, index: int, find: Callable[[str, str | None], Path], stage: _Stage | None = None
    ) -> Record:
        record = read_record(row, self.rows.path, index, find, self.style, self.view)
        if stage is not None:
            stage.rule = "image"
        record = replace(record, messages=expand_images(record.messages, self.reader.expand))
        if stage is not None:
            stage.rule = "layout"
        return record

    def _check(self, index: int, stage: _Stage) -> RowFacts:
        row = self.rows.read(index)
        stage.rule = "layout"
        row = as_conversation(row, self.examples)
        if self._only_names(row):
            stage.rule = "image path"
            return RowFacts(images=_numbers_of(self._named_images(row)))

        def find(name: Any, folder: str | None = None) -> Path:
            stage.rule = "image path"
            found = self.reader.resolve(name, folder)
            stage.rule = "layout"
            return found

        record = self._record(row, index, find, stage)
        images = _numbers_of(record.images)
        if self.tokenizer is not None and self.tokenizer.tiles is not None:
            stage.rule = "image"
            for image in record.images:
                self.reader.num_pictures(self.tokenizer.tiles, image)
        boxes = boxes_of_row(row, record, self.boxes.read, self.reader.shown_size)
        # Its images are checked even if its boxes or its words have a problem.
        try:
            record = place_boxes(row, record, self.boxes, self.reader.shown_size)
        except UserError as error:
            return RowFacts(Problem("boxes", str(error)), images=images, boxes=boxes)
        said = _said(record)  # before the names of mask files are taken off the words
        masks: tuple[MaskFacts, ...] = ()
        try:
            record = place_masks(row, record, self.reader.resolve)
            masks = masks_of_row(row, record, self.reader)
            if (reason := first_problem(masks)) is not None:
                raise UserError(reason)
        except UserError as error:
            return RowFacts(Problem("masks", str(error)), images=images, boxes=boxes, masks=masks)
        written, regions = record, ()
        try:
            record = place_regions(row, record, self.reader.resolve)
            regions = regions_of_row(record, self.reader)
            if (reason := first_problem(regions)) is not None:
                raise UserError(reason)
        except UserError as error:
            return RowFacts(Problem("regions", str(error)), 0, images, None, boxes, masks, regions)
        try:
            if self.tokenizer is None:
                lengths = self._say_something(record)
            else:
                lengths = self._tokenize(written if self.regions_as_words else record, self.tokenizer)
        except UserError as error:
            return RowFacts(Problem("tokens", str(error)), 0, images, None, boxes, masks, regions)
        # The same words may stand for other boxes, masks and regions.
        marks = [row.get(name) for name in ("boxes", "masks", "regions")] if isinstance(row, Mapping) else []
        return RowFacts(None, number_of(repr((said, marks))), images, lengths, boxes, masks, regions)

    def _tokenize(self, record: Record, tokenizer: ChatTokenizer) -> RowLengths:
        chat = tokenizer.tokenize(record.messages, None, self.label_rules)
        whole = len(chat.tokens)
        if whole > self.max_seq_len:
            chat = tokenizer.tokenize(record.messages, self.max_seq_len, self.label_rules)
        sample = make_sample(chat, record.name, tokenizer)
        sample = continue_prompt_prefix(sample, self.prompt_prefix, tokenizer.image_token_id)
        prefix, group = sharing(sample)
        learnt = sum(label != IGNORE_INDEX for label in chat.labels)
        image = chat.tokens.count(tokenizer.image_token_id)
        return RowLengths(whole, len(chat.tokens), learnt, image, len(sample.tokens), sample.start, prefix, group)

    @staticmethod
    def _say_something(record: Record) -> None:
        """Check what can be known of the tokens without a tokenizer."""
        if not any(message.role == "assistant" for message in record.messages):
            raise UserError("no token is left to learn: the assistant says nothing")
        check_answers(record.messages)
        for message in record.messages:
            check_text(_text(message))

    def _only_names(self, row: Any) -> bool:
        return self.any_layout and not has_turns(row)

    def _named_images(self, row: Any) -> list[ImageRef]:
        found: list[ImageRef] = []

        def note(name: str, folder: str | None, keys: Mapping[str, Any]) -> str:
            view = read_view(keys, self.view)
            found.extend(self.reader.expand(ImageRef(str(self.reader.resolve(name, folder)), view)))
            return name

        rename_images(row, note)
        return found

    def _without_name(self, index: int, reason: str) -> str:
        """Return only the reason: rules begin with the row that they are about."""
        for name in (self.rows.name(index), f"{self.rows.path}, row {index}"):
            reason = reason.removeprefix(f"{name}: ")
        return reason


@dataclass
class _Stage:
    """How far the check of a row has come: by which rule it fails if it fails now."""

    rule: str = "json"


def _numbers_of(images: list[ImageRef]) -> tuple[int, ...]:
    return tuple(number_of(str(image)) for image in images)


def number_of(text: str) -> int:
    """Return a number of 64 bits for a text, never 0."""
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def _said(record: Record) -> list[tuple[str, list[str | None]]]:
    """Return who says what, with None for an image."""
    return [
        (message.role, [part["content"] if part["type"] == "text" else None for part in message.content])
        for message in record.messages
    ]


def _text(message: Message) -> str:
    return "".join(part["content"] for part in message.content if part["type"] == "text")
