import pytest

from medcap.errors import UserError
from medcap.serving.limits import Limits


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_rows", 0), ("timeout", -1), ("max_queue", -1), ("timeout", float("inf")), ("max_pixels", 0)],
)
def test_impossible_limits_are_named(name, value):
    with pytest.raises(UserError, match=f"{name}={value}"):
        Limits(**{name: value})


def test_one_body_must_fit_into_all():
    with pytest.raises(UserError, match="max_body_bytes=11"):
        Limits(max_total_body_bytes=10, max_body_bytes=11)


def test_a_queue_may_have_no_places():
    assert Limits(max_queue=0).max_characters == 16 * 2048
