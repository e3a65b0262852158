"""The batches of a run: every item of an epoch's plan once, divided over the processes, read by workers."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from medcap.data.batch import Batch
from medcap.data.chat_tokenizer import ChatTokenizer
from medcap.data.epoch_order import EpochOrder, share_batch
from medcap.data.row_regions import REGION_TEXT
from medcap.data.target_tensors import BOX_L1, MASK_BCE
from medcap.datasets.training_dataset import BadRow, TrainingDataset
from medcap.errors import UserError
from medcap.instantiate import build, find_component
from medcap.models.component_registry import COMPONENTS
from medcap.models.preprocess import Preprocess
from medcap.models.region_encoders.base import RegionEncoder
from medcap.training.distributed.context import DistributedContext
from medcap.training.keys import TrainingConfiguration
from medcap.training.reliability.bad_rows import refuse_before_training
from medcap.training.reliability.checkpointing import Position
from medcap.training.reliability.loader_worker import begin_worker

_READ_AHEAD = 4
# Loss term -> the targets that it is computed of, and what is said where there are none.
_TARGETS = {
    BOX_L1: (
        "boxes",
        "a box for box_decoder to learn from: set dataset.box_answer=head, which makes the boxes of answers its"
        " targets",
    ),
    MASK_BCE: (
        "masks",
        "a mask for mask_decoder to learn from: give each word <SEG> of the answers its mask under 'masks'",
    ),
}

# A process's parts of batches, and the rows that are left out of each.
LoadedBatches = Iterator[tuple[Batch | None, list[BadRow]]]


@dataclass
class LoadedStep:
    """What one process works on in one optimizer step.

    Attributes:
        batches: its part of each accumulated batch; None where nothing of it is usable, or it got no part.
        bad: the rows that were left out.
        next_item: the item of the plan after the step's last, over all processes.
        waited: seconds that were spent waiting for it.
    """

    batches: list[Batch | None]
    bad: list[BadRow]
    next_item: int
    waited: float


class TrainingData:
    """The training and the validation set, and how their plans become batches.

    Args:
        cfg: configuration of the training.
        tokenizer: tokenizer of the model.
        transform: the tower's preprocessing, RGB image -> ``[3, H, W]`` uint8, as ``Preprocess.transform`` returns it.
        world: the processes that share the batches.
        share_preamble: whether the language model can continue words that were computed before.
        share_images: whether questions about an image can share what comes before them.
        most_positions: positions that the language model may use; None for no limit.
        own_picture: how images become what the mask decoder is shown; None where it looks at the tower's pictures.

    Raises:
        UserError: if a file cannot be read, more rows than ``max_bad_fraction`` are found unusable, or a sample is
            longer than the language model may be.
    """

    def __init__(
        self,
        cfg: TrainingConfiguration,
        tokenizer: ChatTokenizer,
        transform: Callable[..., Tensor],
        world: DistributedContext,
        share_preamble: bool = True,
        most_positions: int | None = None,
        share_images: bool = True,
        own_picture: Preprocess | None = None,
    ) -> None:
        self.cfg, self.transform, self.world, self.own_picture = cfg, transform, world, own_picture
        self._most_positions = most_positions
        self._settings = dict(cfg.dataset)
        for key, wanted in (("share_preamble", share_preamble), ("share_images", share_images)):
            if not wanted and key in _parameters(cfg):
                self._settings[key] = False
        if "preprocess" in _parameters(cfg):
            self._settings["preprocess"] = getattr(transform, "preprocess", None)
        self.dataset = self._open(self._settings, tokenizer, "dataset")
        self.validation = None
        if cfg.validation_source is not None:
            one = {key: value for key, value in self._settings.items() if key not in ("sources", "epoch_samples")}
            self.validation = self._open(one | {"source": cfg.validation_source}, tokenizer, "validation")
        self._lengths: dict[int, int] = {}

    def _open(self, settings: Mapping[str, Any], tokenizer: ChatTokenizer, key: str) -> TrainingDataset:
        def build_dataset() -> TrainingDataset:
            return build(settings, tokenizer, key="dataset")

        # One process of a machine indexes the file and counts its tokens; the others find what it has written.
        dataset = self.world.main_first(build_dataset, key)
        mistakes = self.world.gather(self._mistake(dataset, key) if self.world.is_main else None)
        if mistakes[0] is not None:
            raise UserError(mistakes[0])
        return dataset

    def _mistake(self, dataset: TrainingDataset, key: str) -> str | None:
        bad = dataset.bad + dataset.check_images(self.cfg.check_images)
        too_many = refuse_before_training(bad, dataset.num_rows, self.cfg.max_bad_fraction)
        if too_many is not None:
            return too_many
        most = self._most_positions
        if most is not None and (longest := _longest_sample(dataset)) > most:
            # [Contract] beyond its positions a model computes something without a word (longrope: for all samples).
            return (
                f"{key}: a sample of {longest} tokens is longer than the {most} positions of the language model:"
                f" lower dataset.max_seq_len={dataset.row_length} to {most}, which cuts it, or divide the sample"
            )
        if key == "dataset" and not dataset.has_images():
            source = self.cfg.dataset.get("source")
            key = "dataset.sources" if source is None else f"dataset.source={source}"
            return (
                f"{key}: none of its rows that can be used has an image, so"
                f" {' and '.join(self.cfg.trainable)} cannot learn from it; medcap validate shows how rows are read"
            )
        for name in self.cfg.trainable if key == "dataset" else ():
            for term, (targets, remedy) in _TARGETS.items():
                if term in COMPONENTS[name].loss_terms and not dataset.has_targets(targets):
                    return f"dataset: no answer of its rows has {remedy}; medcap validate shows how rows are read"
            if name == RegionEncoder.name and not dataset.has_targets("regions"):
                return (
                    f"dataset: no question of its rows names a region for {name} to learn from: write {REGION_TEXT}"
                    " into questions, and the regions under 'regions'; medcap validate shows how rows are read"
                )
        return None

    @property
    def items_per_step(self) -> int:
        """Items of a plan that one optimizer step uses, over all processes."""
        return self._items_per_batch * self.cfg.gradient_accumulation_steps

    @property
    def _items_per_batch(self) -> int:
        return self.cfg.batch_size * self.world.size

    def plan(self, epoch: int) -> EpochOrder:
        """Return the plan of an epoch, the same on every process."""
        return self.dataset.plan(self.cfg.seed, epoch, self.cfg.shuffle)

    def num_items(self, epoch: int, plan: EpochOrder | None = None) -> int:
        """Return how many items of an epoch's plan are used."""
        if epoch not in self._lengths:
            self._lengths[epoch] = len(self.plan(epoch) if plan is None else plan)
        limit = self.cfg.max_steps_per_epoch
        length = self._lengths[epoch]
        return length if limit is None else min(length, limit * self.items_per_step)

    def steps_left(self, position: Position) -> int:
        """Optimizer steps from a position to the end of the run."""
        steps = 0
        for epoch in range(position.epoch, self.cfg.epochs):
            done = position.unit if epoch == position.epoch else 0
            steps += -(-max(self.num_items(epoch) - done, 0) // self.items_per_step)
        return steps

    def steps(self, epoch: int, start: int) -> Iterator[LoadedStep]:
        """Load the rest of an epoch.

        Args:
            epoch: epoch, counted from 0.
            start: items of its plan that are used already.

        Yields:
            This process's part of each step.
        """
        plan = self.plan(epoch)
        # Resumed with fewer processes, smaller batches or a smaller max_steps_per_epoch, an epoch can be over already.
        stop = max(start, self.num_items(epoch, plan))
        loader = iter(self._loader(self.dataset, plan, start, stop))
        for first in range(start, stop, self.items_per_step):
            last = min(first + self.items_per_step, stop)
            started = time.perf_counter()
            loaded = [next(loader) for _ in range(first, last, self._items_per_batch)]
            waited = time.perf_counter() - started
            yield LoadedStep([batch for batch, _ in loaded], [row for _, bad in loaded for row in bad], last, waited)

    def steps_on_device(self, epoch: int, start: int) -> Iterator[LoadedStep]:
        """As :meth:`steps`, with the batches on this process's device.

        On a GPU the next step's batches are copied while the device computes this one.
        """
        device = self.world.device
        if device.type == "cuda":
            yield from _copied_ahead(self.steps(epoch, start), device)
            return
        yield from self.steps(epoch, start)

    def validation_batches(self) -> LoadedBatches:
        """Yield this process's part of the validation set; the same number of batches on every process."""
        assert self.validation is not None, "asked for only where there is one"
        plan = self.validation.plan(shuffle=False)
        yield from self._loader(self.validation, plan, 0, len(plan))

    def batches_of(self, plan: EpochOrder) -> LoadedBatches:
        """Yield this process's part of some items of the training set; the same number of batches on every process."""
        yield from self._loader(self.dataset, plan, 0, len(plan))

    def forget_lengths(self) -> None:
        """Let the lengths of epochs be counted anew, after their plans have changed."""
        self._lengths.clear()

    def _loader(self, dataset: TrainingDataset, plan: EpochOrder, start: int, stop: int) -> DataLoader[Any]:
        parts = _Parts(dataset, plan, start, stop, self._items_per_batch, self.world, self.transform, self.own_picture)
        num_workers = min(self.cfg.num_workers, len(parts))
        return DataLoader(
            parts,
            batch_size=None,
            num_workers=num_workers,
            pin_memory=self.world.device.type == "cuda",
            prefetch_factor=_READ_AHEAD if num_workers else None,
            worker_init_fn=begin_worker,
            # A generator of its own: a loader draws a seed when it starts, and a resumed run starts one loader more.
            generator=torch.Generator().manual_seed(self.cfg.seed),
        )


def _longest_sample(dataset: TrainingDataset) -> int:
    """Return the tokens of the longest sample with its prompt prefix; the most it may have if none was counted."""
    if dataset.table is None:
        return dataset.row_length
    # What a sample leaves out as its prompt prefix still takes positions.
    longest = int(dataset.table.lengths.max(initial=0)) + len(dataset.prompt_prefix)
    return min(longest, dataset.row_length)


def _parameters(cfg: TrainingConfiguration) -> Collection[str]:
    return signature(find_component(cfg.dataset["_component_"], "dataset._component_")).parameters


class _Parts(Dataset[Any]):
    """One process's part of each batch of a plan."""

    def __init__(
        self,
        dataset: TrainingDataset,
        plan: EpochOrder,
        start: int,
        stop: int,
        items_per_batch: int,
        world: DistributedContext,
        transform: Callable[..., Tensor],
        own_picture: Preprocess | None,
    ) -> None:
        self.dataset, self.plan, self.transform, self.own_picture = dataset, plan, transform, own_picture
        self.start, self.stop, self.items_per_batch = start, stop, items_per_batch
        self.rank, self.size = world.rank, world.size
        self.rows_per_batch, self.on_gpu = items_per_batch // world.size, world.device.type == "cuda"

    def __len__(self) -> int:
        return -(-(self.stop - self.start) // self.items_per_batch)

    def __getitem__(self, number: int) -> tuple[Batch | None, list[BadRow]]:
        first = self.start + number * self.items_per_batch
        part = share_batch(first, min(first + self.items_per_batch, self.stop), self.rank, self.size)
        if part.start == part.stop:
            return None, []
        batch, bad = self.dataset.load(self.plan, part.start, part.stop, self.transform, self.own_picture)
        if batch is not None and self.dataset.packed:
            # The last batch of an epoch, and one with damaged rows: of another shape, it would be compiled for.
            batch = batch.with_rows(self.rows_per_batch)
            if self.on_gpu:
                batch = batch.with_flex_layout()
        return batch, bad


def _copied_ahead(steps: Iterator[LoadedStep], device: torch.device) -> Iterator[LoadedStep]:
    copies, computing = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    waiting: deque[tuple[LoadedStep, Any]] = deque()  # with the event of the copy

    def finished() -> LoadedStep:
        step, copied = waiting.popleft()
        computing.wait_event(copied)
        for batch in step.batches:
            if batch is not None and batch.buffer is not None:
                # Otherwise its memory could be reused for another copy while this stream still reads it.
                batch.buffer.record_stream(computing)
        return step

    for step in steps:
        with torch.cuda.stream(copies):
            batches = [None if batch is None else batch.to(device) for batch in step.batches]
            waiting.append((replace(step, batches=batches), copies.record_event()))
        if len(waiting) > 1:
            yield finished()
    while waiting:
        yield finished()


class LoaderWatch:
    """Says so when the data loader is what a run waits for.

    Args:
        num_workers: number of workers of the run, for the advice.
        share: share of the time above which the message is printed.
        window: steps looked at together.
    """

    def __init__(self, num_workers: int, share: float = 0.25, window: int = 50) -> None:
        self.num_workers, self.share, self.window = num_workers, share, window
        self._steps: list[tuple[float, float, int, int]] = []
        self._last_note = float("-inf")

    def update(self, waited: float, seconds: float, images: int, samples: int) -> str | None:
        """Count a step.

        Args:
            waited: seconds spent waiting for its data.
            seconds: the whole step took.
            images: number of images in it.
            samples: number of samples in it.

        Returns:
            A line for the user, at most once in ten minutes.
        """
        self._steps.append((waited, seconds, images, samples))
        if len(self._steps) < self.window:
            return None
        waited, seconds, images, samples = (sum(column) for column in zip(*self._steps, strict=True))
        self._steps.clear()
        now = time.monotonic()
        if waited < self.share * seconds or now - self._last_note < 600:
            return None
        self._last_note = now
        return (
            f"data loading is the bottleneck: {waited / seconds:.0%} of the time goes into waiting for it; it delivers"
            f" {images / seconds:,.1f} images/s and {samples / seconds:,.1f} samples/s with"
            f" num_workers={self.num_workers}; raise num_workers up to the number of cores, and keep images small"
            " (about the tower's size) and on a near disk"
        )
