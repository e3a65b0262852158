import math

import pytest

from medcap.data.images.frame_choice import choose_frames
from medcap.errors import UserError


@pytest.mark.parametrize(
    ("frames", "count", "expected"),
    [
        ("all", 3, [0, 1, 2]),
        ("middle", 4, [2]),
        ("middle", 1, [0]),
        (2, 3, [2]),
        ((5, 0, 5), 6, [5, 0, 5]),
        ("1 even", 8, [4]),
        ("3 even", 9, [1, 4, 7]),
        ("4 even", 10, [1, 3, 6, 8]),
        ("8 even", 64, [4, 12, 20, 28, 36, 44, 52, 60]),
        ("8 even", 3, [0, 1, 2]),
        ("8 even", 8, [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_frames(frames, count, expected):
    assert list(choose_frames(frames, count)) == expected


@pytest.mark.parametrize("count", [1, 5, 7, 100, 333])
def test_even_frames_are_floors_of_the_middles_of_equal_parts(count):
    for wanted in (1, 2, 5, 8):
        number = min(wanted, count)
        middles = [math.floor((part + 0.5) * count / number) for part in range(number)]
        assert choose_frames(f"{wanted} even", count) == middles
        assert len(set(middles)) == number


@pytest.mark.parametrize("number", [3, -1])
def test_a_frame_that_is_not_there(number):
    with pytest.raises(UserError, match=f"has no frame {number}: it has 3"):
        choose_frames(number, 3)
