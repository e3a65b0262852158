import numpy as np

from medcap.datasets.inspection.lengths import describe_lengths, histogram_lines, summary


def test_figures_and_bins_of_round_width():
    found = describe_lengths(np.array([3, 3, 4, 61, 102]))
    assert {key: found[key] for key in ("rows", "total", "min", "mean", "median", "p95", "max")} == {
        "rows": 5,
        "total": 173,
        "min": 3,
        "mean": 34.6,
        "median": 4,
        "p95": 102,
        "max": 102,
    }
    assert found["histogram"][0] == {"from": 0, "to": 5, "rows": 3}
    assert found["histogram"][-1] == {"from": 100, "to": 105, "rows": 1}
    assert len(found["histogram"]) == 21
    assert summary(found) == "mean 34.6, median 4, 95 % up to 102, 99 % up to 102, from 3 to 102"


def test_one_value_is_one_bin():
    found = describe_lengths(np.array([1500] * 7))
    assert found["histogram"] == [{"from": 1500, "to": 1501, "rows": 7}]
    assert histogram_lines(found) == ["    1,500 -   1,500          7  " + "#" * 40]


def test_no_values_are_none():
    found = describe_lengths(np.array([], dtype=np.int64))
    assert found == {"rows": 0}
    assert summary(found) == "none"
    assert histogram_lines(found) == []
