import os
import signal
from dataclasses import dataclass, field

import numpy as np
import pytest

from medcap.data.packing import Sample, sharing
from medcap.datasets import token_counts
from medcap.datasets.token_counts import count_tokens
from medcap.errors import UserError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDCAP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(token_counts, "_CHUNK", 7)
    monkeypatch.setattr(token_counts, "_WORTH_PROCESSES", 20)


@dataclass
class Maker:
    """Row i: 5 + i % 4 tokens, the first three of them image i // 2; some rows are bad."""

    bad: set[int] = field(default_factory=set)
    asked: list[int] = field(default_factory=list)

    def __call__(self, index):
        self.asked.append(index)
        if index in self.bad:
            raise UserError(f"row {index} is bad")
        tokens = np.arange(5 + index % 4, dtype=np.int32)
        targets = np.where(tokens < 4, -100, tokens)
        return Sample(tokens, targets, (f"{index // 2}.png",), (2,), 3, f"row {index}")


def columns(table):
    return [table.lengths.tolist(), table.prefixes.tolist(), table.groups.tolist()]


def test_lengths_prefixes_and_groups_are_those_of_the_samples():
    table, bad = count_tokens(Maker({1}), 5, "key")
    assert table.lengths.tolist() == [5, 0, 7, 8, 5]
    assert table.prefixes.tolist() == [3, 0, 3, 3, 3]
    groups = [sharing(Maker()(index))[1] for index in range(5)]
    assert table.groups.tolist() == [groups[0], 0, groups[2], groups[3], groups[4]]
    assert groups[2] == groups[3] != groups[4]
    assert [array.dtype for array in (table.lengths, table.prefixes, table.groups)] == [np.int32, np.int32, np.int64]
    assert bad == {1: "row 1 is bad"}


def test_text_alone_shares_nothing():
    table, _ = count_tokens(
        lambda index: Sample(np.ones(4, np.int32), np.ones(4, np.int32), (), (), 0, "row"), 2, "key"
    )
    assert columns(table) == [[4, 4], [0, 0], [0, 0]]


@pytest.mark.processes
def test_any_number_of_processes_counts_the_same(small_chunks):
    maker = Maker({3, 50, 51, 99})
    expected, bad = count_tokens(maker, 100, "key", num_processes=1)
    assert sorted(maker.asked) == list(range(100))
    for processes in (2, 3, 50):
        maker = Maker({3, 50, 51, 99})
        table, found = count_tokens(maker, 100, "key", num_processes=processes)
        assert columns(table) == columns(expected)
        assert list(found.items()) == list(bad.items()) == [(row, f"row {row} is bad") for row in (3, 50, 51, 99)]
        assert maker.asked == []  # it was done elsewhere


def test_few_rows_are_counted_in_this_process():
    maker = Maker()
    count_tokens(maker, 100, "key", num_processes=4)
    assert maker.asked == list(range(100))


def test_a_second_count_comes_from_the_cache(cache):
    expected, _ = count_tokens(Maker(), 100, "key")
    maker = Maker()
    table, bad = count_tokens(maker, 100, "key")
    assert columns(table) == columns(expected)
    assert (bad, maker.asked) == ({}, [])
    assert not table.lengths.flags.owndata
    assert len(list(cache.glob("tokens/*/lengths.npy"))) == 1


@pytest.mark.parametrize(("num_rows", "key"), [(101, "key"), (100, "other key")])
def test_another_key_or_number_of_rows_is_counted_again(num_rows, key):
    count_tokens(Maker(), 100, "key")
    maker = Maker()
    table, _ = count_tokens(maker, num_rows, key)
    assert len(maker.asked) == len(table.lengths) == num_rows


def test_a_damaged_cache_entry_is_counted_again(cache):
    expected, _ = count_tokens(Maker(), 100, "key")
    expected = columns(expected)
    (path,) = cache.glob("tokens/*/groups.npy")
    os.truncate(path, 300)
    assert columns(count_tokens(Maker(), 100, "key")[0]) == expected
    maker = Maker()
    count_tokens(maker, 100, "key")
    assert maker.asked == []


def test_only_bad_rows_are_tried_again_and_one_that_was_fixed_is_used():
    count_tokens(Maker({10, 20}), 1000, "key")
    still_bad = Maker({10, 20})
    table, bad = count_tokens(still_bad, 1000, "key")
    assert still_bad.asked == [10, 20]
    assert bad == {10: "row 10 is bad", 20: "row 20 is bad"}
    assert np.flatnonzero(table.lengths == 0).tolist() == [10, 20]
    table, bad = count_tokens(Maker({20}), 1000, "key")
    assert bad == {20: "row 20 is bad"}
    expected, _ = count_tokens(Maker({20}), 1000, "other key")
    assert columns(table) == columns(expected)


def test_a_count_of_mostly_bad_rows_is_not_kept():
    everything = set(range(100))
    table, bad = count_tokens(Maker(everything), 100, "key")
    assert (table.lengths.any(), len(bad)) == (False, 100)
    maker = Maker()
    count_tokens(maker, 100, "key")
    assert len(maker.asked) == 100
    maker = Maker()
    count_tokens(maker, 100, "key")
    assert maker.asked == []


@pytest.mark.processes
def test_a_worker_that_dies_is_an_error_of_one_line(small_chunks, cache):
    def die(index):
        if index == 60:
            os.kill(os.getpid(), signal.SIGKILL)
        return Maker()(index)

    with pytest.raises(UserError, match="a process that counted tokens died") as error:
        count_tokens(die, 100, "key", num_processes=2)
    assert "\n" not in str(error.value)
    assert not (cache / "tokens").exists()


@pytest.mark.processes
@pytest.mark.parametrize("processes", [1, 2])
def test_a_mistake_in_the_program_is_not_taken_for_a_bad_row(small_chunks, processes):
    def fail(index):
        return [][index]

    with pytest.raises(IndexError):
        count_tokens(fail, 100, "key", num_processes=processes)


def test_no_rows_make_an_empty_table():
    table, bad = count_tokens(Maker(), 0, "key")
    assert (columns(table), bad) == ([[], [], []], {})


def test_a_key_may_hold_a_file_name_that_is_not_text():
    first, _ = count_tokens(Maker(), 3, "key \udcff")
    again, _ = count_tokens(Maker(), 3, "key \udcff")
    assert columns(again) == columns(first) and len(columns(first)[0]) == 3
