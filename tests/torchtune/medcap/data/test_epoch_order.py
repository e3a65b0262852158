import numpy as np
import pytest

from medcap.data.epoch_order import EpochOrder, plan_packed, share_batch
from medcap.data.packing import SampleTable


def table(lengths, prefixes=None, groups=None):
    count = len(lengths)
    prefixes = np.zeros(count) if prefixes is None else prefixes
    groups = np.zeros(count) if groups is None else groups
    return SampleTable(np.array(lengths, np.int32), np.array(prefixes, np.int32), np.array(groups, np.int64))


def test_a_plan_of_rows_names_documents_and_samples():
    # Samples 0 and 3 show one image (prefix 4): together 4 + 2 + 3 tokens.
    plan = plan_packed(table([6, 5, 5, 7], [4, 0, 0, 4], [9, 0, 0, 9]), np.array([0, 1, 2, 3]), 10)
    assert len(plan) == 2
    assert plan.rows(0, 2) == [[[0, 3]], [[1], [2]]]
    assert plan.rows(1, 2) == [[[1], [2]]]
    assert plan.samples_of(0, 1) == [0, 3]
    assert plan.samples_of(0, 2) == [0, 3, 1, 2]


def test_a_plan_of_samples_counts_samples():
    plan = EpochOrder(np.array([2, 0, 1]))
    assert len(plan) == 3
    assert plan.samples_of(1, 3) == [0, 1]


@pytest.mark.parametrize("seed", range(3))
def test_every_usable_sample_is_in_exactly_one_row_and_no_row_overflows(seed):
    generator = np.random.default_rng(seed)
    own = generator.integers(1, 20, 5000)
    groups = generator.integers(0, 900, 5000)
    prefixes = np.where(groups % 3 == 0, 0, 10)
    lengths = own + prefixes
    lengths[generator.choice(5000, 50, replace=False)] = 0
    plan = plan_packed(table(lengths, prefixes, groups), generator.permutation(5000), 64, generator=generator)
    assert sorted(plan.samples_of(0, len(plan))) == np.flatnonzero(lengths).tolist()
    tokens = 0
    for row in plan.rows(0, len(plan)):
        used = 0
        for document in row:
            shared = prefixes[document[0]] if len(document) > 1 else 0
            assert len(document) == 1 or {groups[index] for index in document} == {groups[document[0]]}
            used += shared + sum(lengths[index] - shared for index in document)
        assert used <= 64
        tokens += used
    assert tokens / (64 * len(plan)) > 0.97


def test_the_same_seed_gives_the_same_plan_and_another_one_another():
    lengths = np.random.default_rng(0).integers(5, 60, 500)
    plans = [
        plan_packed(
            table(lengths), np.random.default_rng(seed).permutation(500), 64, generator=np.random.default_rng(9)
        )
        for seed in (1, 1, 2)
    ]
    assert plans[0].rows(0, len(plans[0])) == plans[1].rows(0, len(plans[1]))
    assert plans[0].rows(0, 5) != plans[2].rows(0, 5)


@pytest.mark.parametrize("count", range(9))
@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_shares_cover_a_batch_once_and_differ_by_one_item_at_most(count, size):
    shares = [share_batch(100, 100 + count, rank, size) for rank in range(size)]
    assert [item for share in shares for item in range(share.start, share.stop)] == list(range(100, 100 + count))
    lengths = [share.stop - share.start for share in shares]
    assert max(lengths) - min(lengths) <= 1
