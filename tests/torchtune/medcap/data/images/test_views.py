import math

import numpy as np
import pytest
from PIL import Image

from medcap.data.images.views import apply_window, choose_frames, square_pixels, stretch
from medcap.errors import UserError


def test_stretch_takes_the_finite_range_or_the_one_given():
    values = np.array([np.nan, 10.0, 20.0, 60.0, np.inf])
    assert stretch(values).tolist() == [0, 0, 51, 255, 0]
    assert stretch(values, 20, 40).tolist() == [0, 0, 0, 255, 0]
    assert stretch(np.array([7, 7])).tolist() == stretch(np.array([np.nan, np.nan])).tolist() == [0, 0]


def test_a_window_is_centre_and_width():
    assert apply_window(np.array([-10, 0, 20, 100, 200]), 50, 100).tolist() == [0, 0, 51, 255, 255]


def test_a_window_that_is_too_narrow_for_a_float_is_a_threshold():
    assert apply_window(np.array([999, 1000, 1001, np.nan]), 1000, 1e-30).tolist() == [0, 0, 255, 0]


@pytest.mark.parametrize("scale", [1e-315, 1e-300, 1e300, 1e307])
def test_stretch_of_very_small_and_very_large_values(scale):
    assert stretch(np.array([-5, 0, 10, 10]) * scale).tolist() == [0, 85, 255, 255]


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


@pytest.mark.parametrize(
    ("rows", "columns", "size"),
    [
        (1, 1, (40, 20)),
        (3, 1, (40, 60)),
        (0.5, 1, (80, 20)),
        (0, 1, (40, 20)),
        (float("nan"), 1, (40, 20)),
        (1.005, 1, (40, 20)),
    ],
)
def test_pixels_become_square(rows, columns, size):
    assert square_pixels(Image.new("L", (40, 20)), rows, columns, 10_000).size == size


def test_square_pixels_keep_the_cap():
    with pytest.raises(UserError, match="is 40 x 400 with square pixels"):
        square_pixels(Image.new("L", (40, 20)), 20, 1, 10_000)
