from fractions import Fraction

import numpy as np
import pytest

from medcap.data.mixture import divide_epoch, mix


def shuffled(sizes, seed=0):
    def order(source, number):
        return np.random.default_rng([seed, number, source]).permutation(sizes[source])

    return lambda source, passes: np.concatenate([order(source, number) for number in passes])


def in_order(sizes):
    return lambda source, passes: np.tile(np.arange(sizes[source]), len(passes))


def fractions(*texts):
    return [Fraction(text) for text in texts]


@pytest.mark.parametrize(
    ("weights", "total", "counts"),
    [
        (fractions("0.5", "0.3", "0.2"), 1000, [500, 300, 200]),
        (fractions("0.5", "0.3", "0.2"), 7, [4, 2, 1]),  # 3.5, 2.1, 1.4: the rest goes to the first
        (fractions("1", "1", "1"), 4, [2, 1, 1]),
        (fractions("1e-9", "1"), 10, [0, 10]),
        (fractions("13", "5", "1"), 19, [13, 5, 1]),
        (fractions("0.1"), 3, [3]),
    ],
)
def test_shares_differ_by_less_than_one_sample_from_the_weights(weights, total, counts):
    assert divide_epoch(weights, total) == counts


def test_without_shuffling_the_sources_alternate_by_their_weights():
    mixed = mix([4, 2, 1], [4, 2, 1], [0, 0, 0], in_order([4, 2, 1]), None)
    assert list(zip(mixed.sources.tolist(), mixed.rows.tolist(), strict=True)) == [
        (0, 0),
        (1, 0),
        (0, 1),
        (2, 0),
        (0, 2),
        (1, 1),
        (0, 3),
    ]


def test_a_pass_shows_every_row_before_one_comes_again_and_goes_on_in_the_next_epoch():
    sizes, counts = [10, 3, 1], [4, 7, 2]  # a part of a pass, more than two passes, two passes of one row
    epochs = [
        mix(sizes, counts, [epoch * count for count in counts], shuffled(sizes), np.random.default_rng(epoch))
        for epoch in range(5)
    ]
    for source, (size, count) in enumerate(zip(sizes, counts, strict=True)):
        shown = np.concatenate([epoch.rows[epoch.sources == source] for epoch in epochs])
        assert len(shown) == 5 * count
        whole = [shown[start : start + size].tolist() for start in range(0, len(shown) - size + 1, size)]
        assert len(whole) == 5 * count // size
        assert all(sorted(rows) == list(range(size)) for rows in whole)
    assert epochs[1].passes[epochs[1].sources == 1].tolist() == [0, 0, 1, 1, 1, 2, 2]  # rows 7 to 13 of 3


def test_every_stretch_of_an_epoch_holds_the_sources_in_about_their_shares():
    sizes, counts = [40, 3000, 100], [500, 300, 200]
    for generator in (None, np.random.default_rng(0)):
        sources = mix(sizes, counts, [0] * len(counts), shuffled(sizes), generator).sources
        for source, count in enumerate(counts):
            share = count / 1000
            seen = np.cumsum(sources == source)
            assert np.abs(seen - share * np.arange(1, 1001)).max() < 1 + 3 * share


def test_the_order_is_drawn_anew_in_each_epoch():
    sizes = [50, 50]
    orders = [
        mix(sizes, sizes, [epoch * size for size in sizes], shuffled(sizes), np.random.default_rng(epoch)).sources
        for epoch in (0, 1)
    ]
    assert (orders[0] != orders[1]).any()
