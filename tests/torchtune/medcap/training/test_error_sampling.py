import pytest

from medcap.training.error_sampling import factors


def test_a_source_with_twice_the_mean_loss_is_drawn_twice_as_often():
    assert factors([3.0, 1.0, 0.5], 1.0) == pytest.approx([2.0, 2 / 3, 1 / 3])
    assert factors([3.0, 1.0], 2.0) == pytest.approx([2.25, 0.25])


def test_factors_have_limits_and_no_error_changes_nothing():
    assert factors([100.0, 0.0, 0.0, 0.0, 0.0, 0.0], 1.0) == [4.0, 0.25, 0.25, 0.25, 0.25, 0.25]
    assert factors([0.0, 0.0], 1.0) == [1.0, 1.0]
