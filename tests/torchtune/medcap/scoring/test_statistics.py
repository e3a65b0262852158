import tracemalloc

import numpy as np
import pytest

from medcap.scoring.statistics import (
    DIFFERENCE,
    NUMBER,
    Interval,
    bootstrap_group_mean,
    bootstrap_interval,
    bootstrap_of_ratios,
    bootstrap_of_sums,
    bootstrap_of_weights,
    rows_of_means,
    with_width,
)


def plain_bootstrap(values, draws):
    generator = np.random.default_rng(123)
    means = [generator.choice(values, size=len(values)).mean() for _ in range(draws)]
    return np.quantile(means, [0.025, 0.975])


@pytest.mark.slow
@pytest.mark.parametrize("few", [True, False])
def test_interval_agrees_with_drawing_rows_one_by_one(few):
    values = np.random.default_rng(0).random(200)
    values = np.round(values) if few else values
    interval = bootstrap_interval(values)
    assert interval.value == pytest.approx(values.mean())
    # Each end has the noise of its 10,000 draws, and means of 0 and 1 lie 1/200 apart.
    assert np.abs([interval.low, interval.high] - plain_bootstrap(values, 10_000)).max() < 0.0051


def test_the_same_arguments_give_the_same_interval():
    values = np.random.default_rng(1).random(300)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_known_answer_for_right_and_wrong():
    interval = bootstrap_interval([1.0] * 30 + [0.0] * 70)
    assert (interval.value, interval.low, interval.high) == (0.3, 0.21, 0.39)
    assert interval.as_dict() == {"low": 0.21, "high": 0.39, "level": 0.95, "draws": 10_000}


def test_one_row_or_cluster_has_no_interval_and_equal_values_have_no_width():
    assert bootstrap_interval([0.5]) == Interval(0.5, None, None, 0.95, 10_000)
    assert bootstrap_interval([0.5]).ends is None
    assert bootstrap_interval([0.2, 0.4], clusters=["a", "a"]).ends is None
    assert bootstrap_group_mean([0.5], ["x"]).ends is None
    assert bootstrap_of_weights(1, lambda counts: counts[:, 0] / 2).ends is None
    assert bootstrap_interval([2.0] * 1000).high == 2.0


def test_a_ratio_of_sums_is_drawn_as_a_whole():
    rows = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 10.0]] * 30 + [[5.0, 7.0]])
    interval = bootstrap_of_sums(rows, lambda sums: sums[:, 0] / sums[:, 1])
    assert interval.value == pytest.approx(125 / 487)
    assert 0.15 < interval.low < interval.value < interval.high < 0.4


def test_memory_does_not_grow_with_rows_times_draws():
    values = np.random.default_rng(2).random(100_000)
    tracemalloc.start()
    bootstrap_interval(values, draws=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * 2**20  # 100 draws of 100,000 values at once would be 160 MiB


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_no_values_or_broken_values_are_refused(values):
    with pytest.raises(ValueError, match=r"no values|not finite"):
        bootstrap_interval(values)


def plain_group_bootstrap(values, groups, draws):
    generator = np.random.default_rng(321)
    groups = np.array(groups)
    results = []
    for _ in range(draws):
        drawn = generator.integers(0, len(values), len(values))
        own = [values[drawn][groups[drawn] == group] for group in np.unique(groups)]
        results.append(np.mean([members.mean() for members in own if len(members)]))
    return np.quantile(results, [0.025, 0.975])


@pytest.mark.slow
@pytest.mark.parametrize("few", [True, False])
def test_interval_of_a_mean_over_groups_agrees_with_drawing_rows_one_by_one(few):
    generator = np.random.default_rng(4)
    groups = ["x"] * 150 + ["y"] * 60 + ["z"] * 2
    values = generator.random(len(groups)) + np.repeat([0.0, 1.0, 5.0], [150, 60, 2])
    values = np.round(values) if few else values
    interval = bootstrap_group_mean(values, groups)
    assert interval.value == pytest.approx(np.mean([values[:150].mean(), values[150:210].mean(), values[210:].mean()]))
    # One draw in seven leaves z out, so that the interval reaches far down.
    assert interval.low < 1.1 < interval.value
    assert np.abs([interval.low, interval.high] - plain_group_bootstrap(values, groups, 4_000)).max() < 0.03


def test_one_group_is_the_mean_over_rows():
    values = [1.0] * 30 + [0.0] * 70
    assert bootstrap_group_mean(values, [""] * 100) == bootstrap_interval(values)


@pytest.mark.parametrize(("values", "groups"), [([], []), ([1.0, float("nan")], ["a", "b"]), ([1.0, 0.0], ["a"])])
def test_broken_groups_are_refused(values, groups):
    with pytest.raises(ValueError, match=r"no values|not finite|2 values but 1 groups"):
        bootstrap_group_mean(values, groups)


def test_a_statistic_of_weights_gives_the_interval_of_the_mean():
    values = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 3.0])
    found = bootstrap_of_weights(6, lambda counts: counts @ values / 6, draws=4000)
    mean = bootstrap_interval(values, draws=4000)
    assert found.value == mean.value == 1.0
    assert abs(found.low - mean.low) < 0.1 and abs(found.high - mean.high) < 0.1
    with pytest.raises(ValueError, match="no values to draw from"):
        bootstrap_of_weights(0, lambda counts: counts.sum(axis=1))


@pytest.mark.parametrize(
    ("values", "low", "high"),
    [
        ([1.0], 0.2065, 1.0),
        ([0.0] * 6, 0.0, 0.3903),
        ([1.0] * 1000, 0.9962, 1.0),
        ([0.0], 0.0, 0.7935),
        # Sentence BLEU without a common pair of words.
        ([2.0**-512] * 6, 0.0, 0.3903),
        ([2.2e-308], 0.0, 0.7935),
    ],
)
def test_all_right_and_all_wrong_are_not_certain(values, low, high):
    interval = bootstrap_interval(values)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert (interval.value, interval.draws, interval.level) == (values[0], 0, 0.95)


def test_wilsons_interval_is_that_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    for rows in (1, 7, 50):
        expected = stats.binomtest(rows, rows).proportion_ci(0.9, method="wilson")
        found = bootstrap_interval([1.0] * rows, level=0.9)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("value", "kind", "low", "high"),
    [
        (1.0, DIFFERENCE, 0.6097, 1.0),
        (-1.0, DIFFERENCE, -1.0, -0.6097),
        (0.0, DIFFERENCE, -0.3903, 0.3903),
        (0.0, NUMBER, 0.0, 0.0),
        (1.0, NUMBER, 1.0, 1.0),
        (0.5, DIFFERENCE, 0.5, 0.5),
    ],
)
def test_differences_have_a_width_on_either_side_and_numbers_without_bounds_none(value, kind, low, high):
    interval = bootstrap_interval([value] * 6, kind=kind)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_an_interval_with_a_width_stays():
    interval = Interval(1.0, 0.9, 1.0, 0.95, 10_000)
    assert with_width(interval, 5) is interval


def test_a_mean_of_means_knows_less_than_its_rows():
    assert rows_of_means([3, 3]) == 6.0
    assert rows_of_means([8, 2]) == pytest.approx(6.4)
    assert rows_of_means([5]) == 5.0
    found = bootstrap_group_mean([1.0] * 10, ["CT"] * 8 + ["MR"] * 2)
    assert (found.low, found.high) == (pytest.approx(0.6249, abs=5e-5), 1.0)
    assert bootstrap_group_mean([0.0] * 3, [""] * 3) == bootstrap_interval([0.0] * 3)


def plain_cluster_bootstrap(values, clusters, draws):
    generator = np.random.default_rng(321)
    members = [values[clusters == cluster] for cluster in np.unique(clusters)]
    drawn = generator.integers(0, len(members), (draws, len(members)))
    return np.quantile([np.concatenate([members[i] for i in row]).mean() for row in drawn], [0.025, 0.975])


@pytest.mark.slow
def test_clusters_are_drawn_as_a_whole():
    generator = np.random.default_rng(7)
    clusters = generator.integers(0, 40, 300)
    values = (generator.random(40)[clusters] + 0.1 * generator.random(300)) / 1.1
    interval = bootstrap_interval(values, clusters=clusters.tolist())
    assert interval.value == pytest.approx(values.mean())
    assert np.abs([interval.low, interval.high] - plain_cluster_bootstrap(values, clusters, 5_000)).max() < 0.01
    single = bootstrap_interval(values)
    assert interval.high - interval.low > 1.5 * (single.high - single.low)


def test_clusters_of_one_row_change_nothing():
    values = [0.0, 1.0, 1.0, 0.0, 1.0] * 8
    assert bootstrap_interval(values, clusters=range(40)) == bootstrap_interval(values)
    # Two clusters that are all right tell as little as two rows.
    assert bootstrap_interval([1.0] * 10, clusters=[0, 1] * 5) == bootstrap_interval([1.0] * 2)


def test_a_mean_of_ratios_is_drawn_by_cluster():
    hits, sizes, clusters, groups = [1, 0, 2, 0], [2, 2, 2, 4], ["p", "p", "q", "r"], ["ct", "ct", "mr", "mr"]
    interval = bootstrap_of_ratios(hits, sizes, clusters, groups)
    assert interval.value == pytest.approx((1 / 4 + 2 / 6) / 2)
    assert (interval.low, interval.high) == (0.0, 1.0)  # only r, or only q
    assert bootstrap_group_mean([1.0, 0.0, 1.0], ["a", "a", "b"], clusters=["x", "x", "x"]).ends is None
    with pytest.raises(ValueError, match="2 rows, 1 clusters"):
        bootstrap_of_ratios([1, 1], [1, 1], ["p"])
