from types import SimpleNamespace

import numpy as np
import pytest
import torch

from helpers.packed_samples import IMAGE, sample
from medcap.data.batch import make_batch
from medcap.data.epoch_order import EpochOrder
from medcap.data.packing import SampleTable, pack_row
from medcap.datasets.training_dataset import BadRow
from medcap.errors import UserError
from medcap.training import data as training_data
from medcap.training.data import LoaderWatch, TrainingData
from medcap.training.distributed.context import DistributedContext
from medcap.training.keys import TrainingConfiguration
from medcap.training.reliability.checkpointing import Position

KEYS = {
    "dataset": {"_component_": "medcap.datasets.chat_dataset", "source": "train.json"},
    "validation_source": None,
    "seed": 0,
    "shuffle": True,
    "batch_size": 2,
    "epochs": 3,
    "max_steps_per_epoch": None,
    "gradient_accumulation_steps": 1,
    "check_images": 5,
    "max_bad_fraction": 0.0,
    "num_workers": 0,
}


class Numbers:
    """13 samples, of which the epoch begins with that of its number; a batch is their list."""

    num_rows = 13
    shows_images, packed = True, False
    row_length, prompt_prefix = 4096, (1, 2)
    table = SampleTable(*(np.full(13, number) for number in (300, 0, 0)))

    def __init__(self, bad_rows=(), bad_images=()):
        self.bad, self._bad_images = list(bad_rows), list(bad_images)
        self.checked = None

    def check_images(self, count):
        self.checked = count
        return self._bad_images

    def has_images(self):
        return self.shows_images

    def plan(self, seed=0, epoch=0, shuffle=True):
        return EpochOrder(np.roll(np.arange(13), -epoch if shuffle else 0))

    def load(self, plan, start, stop, transform, own_picture=None):
        samples = plan.samples_of(start, stop)
        return [sample for sample in samples if sample != 7], [BadRow("row 7", "cut") for s in samples if s == 7]


@pytest.fixture
def opened(monkeypatch):
    """Open the data on one of several processes."""

    def open_data(rank=0, size=1, dataset=None, most=None, **changes):
        world = DistributedContext(rank, size, 0, 1, torch.device("cpu"))
        monkeypatch.setattr(world, "gather", lambda value: [value] * size)
        monkeypatch.setattr(training_data, "build", lambda *_, key: dataset or Numbers())
        return TrainingData(
            TrainingConfiguration.model_construct(**KEYS | changes), None, None, world, most_positions=most
        )

    return open_data


def parts(data, epoch=0, start=0):
    return [step.batches for step in data.steps(epoch, start)]


def test_every_process_gets_its_part_of_each_step(opened):
    assert parts(opened(0, 2)) == [[[0, 1]], [[4, 5]], [[8, 9]], [None]]
    assert parts(opened(1, 2)) == [[[2, 3]], [[6]], [[10, 11]], [[12]]]


def test_a_step_says_what_was_left_out_and_where_the_epoch_is(opened):
    steps = list(opened(1, 2).steps(0, 0))
    assert [step.next_item for step in steps] == [4, 8, 12, 13]
    assert [[row.name for row in step.bad] for step in steps] == [[], ["row 7"], [], []]


def test_an_epoch_continues_where_it_was_left(opened):
    assert parts(opened(0, 2), epoch=1, start=8) == [[[9, 10]], [None]]
    assert parts(opened(1, 2), epoch=1, start=8) == [[[11, 12]], [[0]]]
    assert parts(opened(), epoch=1, start=13) == []


def test_accumulated_batches_make_one_step_and_the_last_is_shorter(opened):
    data = opened(gradient_accumulation_steps=4)
    assert parts(data) == [[[0, 1], [2, 3], [4, 5], [6]], [[8, 9], [10, 11], [12]]]
    assert data.items_per_step == 8


@pytest.mark.parametrize(
    ("changes", "position", "left"),
    [
        ({}, Position(), 3 * 7),
        ({}, Position(step=9, epoch=1, unit=4), 5 + 7),
        ({}, Position(step=9, epoch=1, unit=5), 4 + 7),
        ({"gradient_accumulation_steps": 3}, Position(), 3 * 3),
        ({"max_steps_per_epoch": 2}, Position(), 3 * 2),
        ({"max_steps_per_epoch": 2}, Position(step=2, epoch=0, unit=4), 2 * 2),
        ({"max_steps_per_epoch": 1}, Position(step=2, epoch=2, unit=4), 0),
    ],
)
def test_steps_that_are_left_are_those_that_are_made(opened, changes, position, left):
    data = opened(**changes)
    assert data.steps_left(position) == left
    made = sum(
        len(parts(data, epoch, position.unit if epoch == position.epoch else 0)) for epoch in range(position.epoch, 3)
    )
    assert made == left


def test_processes_make_equally_many_steps_of_the_validation_set(opened):
    both = [list(opened(rank, 2, validation_source="test.json").validation_batches()) for rank in (0, 1)]
    assert [[batch for batch, _ in part] for part in both] == [
        [[0, 1], [4, 5], [8, 9], None],
        [[2, 3], [6], [10, 11], [12]],
    ]
    assert opened().validation is None


@pytest.mark.parametrize(("allowed", "refused"), [(0.0, True), (0.15, True), (0.154, False)])
def test_too_many_unusable_rows_are_reported_with_the_remedy(opened, allowed, refused):
    dataset = Numbers([BadRow("row 3", "row 3: no answer")], [BadRow("row 4", "4.png is damaged")])
    if not refused:
        assert opened(dataset=dataset, max_bad_fraction=allowed).dataset.checked == 5
        return
    with pytest.raises(UserError) as error:
        opened(dataset=dataset, max_bad_fraction=allowed)
    assert str(error.value) == (
        "2 of 13 rows cannot be used, the first: row 3: no answer; fix or remove them, or allow some with"
        " max_bad_fraction=0.154"
    )


def test_a_slow_loader_is_reported_at_most_once_in_ten_minutes(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: clock.now, now=1000.0)
    monkeypatch.setattr(training_data, "time", clock)
    watch = LoaderWatch(num_workers=3, window=2)
    assert watch.update(0.1, 1.0, 4, 4) is None
    assert watch.update(0.1, 1.0, 4, 4) is None
    assert watch.update(0.5, 1.0, 4, 6) is None
    line = watch.update(0.7, 1.0, 4, 6)
    assert line.startswith(
        "data loading is the bottleneck: 60% of the time goes into waiting for it; it delivers 4.0 images/s"
    )
    assert "6.0 samples/s with num_workers=3" in line
    assert [watch.update(0.7, 1.0, 4, 6) for _ in range(4)] == [None] * 4
    clock.now += 601
    assert [bool(watch.update(0.7, 1.0, 4, 6)) for _ in range(2)] == [False, True]


def test_a_sample_that_is_longer_than_the_language_model_may_be_is_refused(opened):
    # 300 tokens and a prompt prefix of 2; rows of 4096 tokens may hold several samples.
    assert opened(most=302).dataset.num_rows == 13
    with pytest.raises(UserError) as error:
        opened(most=301)
    assert str(error.value) == (
        "dataset: a sample of 302 tokens is longer than the 301 positions of the language model:"
        " lower dataset.max_seq_len=4096 to 301, which cuts it, or divide the sample"
    )
    uncounted = Numbers()
    uncounted.table = None
    with pytest.raises(UserError, match="a sample of 4096 tokens"):
        opened(dataset=uncounted, most=4095)


def test_training_data_without_an_image_is_refused(opened):
    dataset = Numbers()
    dataset.shows_images = False
    with pytest.raises(UserError) as error:
        opened(dataset=dataset, trainable=["projector"])
    assert str(error.value) == (
        "dataset.source=train.json: none of its rows that can be used has an image, so projector cannot learn from it;"
        " medcap validate shows how rows are read"
    )


class Rows(Numbers):
    """The same samples, each in a packed row of its own; that of number 7 is damaged."""

    packed = True

    def load(self, plan, start, stop, transform, own_picture=None):
        good = [number for number in plan.samples_of(start, stop) if number != 7]
        rows = [pack_row([[sample(None, [number], [5])]], 16, pad_id=9) for number in good]
        return make_batch(rows, IMAGE, 1, {}.__getitem__) if rows else None, []


@pytest.mark.parametrize("size", [1, 2])
def test_every_packed_batch_of_an_epoch_has_one_shape(opened, size):
    shapes, tokens = set(), 0
    for rank in range(size):
        for (batch,) in parts(opened(rank, size, Rows(), batch_size=3)):
            if batch is not None:
                shapes.add(tuple(batch.tokens.shape))
                tokens += batch.num_tokens
                assert batch.tokens.shape == batch.document.shape == batch.after_prompt_prefix.shape
                assert int((batch.document >= 0).sum()) == batch.num_tokens
                assert (batch.targets[batch.document < 0] == -100).all()
    assert shapes == {(3, 16)}
    assert tokens == 12 * 3
