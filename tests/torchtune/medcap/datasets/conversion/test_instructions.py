import pytest

from medcap.datasets.conversion.instructions import CASE_REPORT, DESCRIBE, Instructions


def test_none_fixed_and_random():
    assert Instructions("none").choose(DESCRIBE) == ""
    assert [Instructions("fixed", seed).choose(CASE_REPORT) for seed in (0, 1)] == [CASE_REPORT[0]] * 2
    chosen = [[instructions.choose(DESCRIBE) for _ in range(200)] for instructions in map(_seeded, (3, 3, 4))]
    assert chosen[0] == chosen[1] != chosen[2]
    assert set(chosen[0]) == set(DESCRIBE)


def _seeded(seed):
    return Instructions("random", seed)


def test_an_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'some' is unknown"):
        Instructions("some")


def test_the_lists_hold_no_sentence_twice():
    assert len(set(DESCRIBE)) == len(DESCRIBE)
    assert len(set(CASE_REPORT)) == len(CASE_REPORT)
