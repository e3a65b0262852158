import pytest

from medcap.scoring.paired_tests import holm, mcnemar, sign_flip_p


def test_holm_multiplies_the_smallest_most_and_never_falls():
    # By hand: 0.005 * 4, 0.01 * 3, 0.03 * 2, and 0.04, which may not be below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_holm_of_one_or_none_changes_nothing_and_never_passes_1():
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    assert holm([0.6, 0.9]) == [1.0, 1.0]


@pytest.mark.parametrize(
    ("first_only", "second_only", "expected"),
    [
        (10, 2, 0.03857421875),
        (2, 10, 0.03857421875),
        (0, 0, 1.0),
        (7, 7, 1.0),
        (1, 0, 1.0),
        (0, 6, 0.03125),
        (3, 4, 1.0),
        (0, 2000, 0.0),
    ],
)
def test_mcnemar_is_the_exact_binomial_test(first_only, second_only, expected):
    assert mcnemar(first_only, second_only) == expected


@pytest.mark.parametrize(("first_only", "second_only"), [(3, 11), (40, 61), (500, 430), (9_000, 9_300)])
def test_mcnemar_equals_whole_numbers_however_many_rows(first_only, second_only):
    total, least = first_only + second_only, min(first_only, second_only)
    term = tail = 1
    for taken in range(least):
        term = term * (total - taken) // (taken + 1)
        tail += term
    assert mcnemar(first_only, second_only) == pytest.approx(min(1.0, 2 * tail / 2**total), rel=1e-12)


def test_random_signs_come_near_the_exact_p():
    # 12 rows of one size: the sign-flip test is McNemar's test.
    assert sign_flip_p([1.0] * 10 + [-1.0] * 2 + [0.0] * 50) == pytest.approx(0.03857, abs=0.006)
    # Sizes 1, 2, 3 all positive: two of eight sign choices are as far from 0.
    assert sign_flip_p([1.0, 2.0, 3.0]) == pytest.approx(0.25, abs=0.02)
    assert sign_flip_p([0.3] * 40) == 1 / 10_001
    assert sign_flip_p([0.1] * 3) == pytest.approx(0.25, abs=0.02)
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert sign_flip_p([]) == 1.0
    assert sign_flip_p([0.2, -0.1, 0.4]) == sign_flip_p([0.2, -0.1, 0.4])
    with pytest.raises(ValueError, match="finite"):
        sign_flip_p([float("nan")])
